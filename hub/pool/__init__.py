"""The pool: every observation of every agent where it can be asked for, in whichever store the user chose.

observed   one verified batch as columns, on its way from the archive to a store and to the correlation
fields     the one table of what can be asked: names (ECS), types, meanings, where the values come from
query      the query language: text to a tree and back
store      what a store must do
"""
