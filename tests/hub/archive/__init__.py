"""Tests of `hub.archive`."""
