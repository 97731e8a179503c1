"""Tests of `hub.decode`."""
