"""Tests of `hub.dissect`."""
