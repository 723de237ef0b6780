"""Tests of levit gallery."""
