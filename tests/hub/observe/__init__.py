"""Tests of `hub.observe`."""
