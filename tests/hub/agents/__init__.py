"""Tests of `hub.agents`."""
