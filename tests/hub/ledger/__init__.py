"""Tests of `hub.ledger`."""
