"""Comparing methods: pictures of people who were held out, measured."""
