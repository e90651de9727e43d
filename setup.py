"""Entry point for build tools; everything is stated in setup.cfg."""
from setuptools import setup

setup()
