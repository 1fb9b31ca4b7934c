"""Tests of nettrace and probes; folders mirror the packages, and live/ needs root."""
