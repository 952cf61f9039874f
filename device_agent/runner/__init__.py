"""Runners: the program that a phone runs, how it is told what to do, and how it answers.

A runner is a bundle of files with a manifest. It is started with the path of a plan (plain lines, `plan.py`) and
answers in JSON lines on standard output (`output.py`). Any runner that keeps this contract can take the place of
the one in `native/`.
"""
