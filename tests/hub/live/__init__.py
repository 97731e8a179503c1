"""Tests of `hub.live`."""
