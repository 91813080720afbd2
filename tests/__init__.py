"""Tests: folders that mirror the rooms; `support` has what several of them use."""
