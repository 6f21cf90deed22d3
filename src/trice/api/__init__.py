"""The stages as functions on objects: questions, models and tasks go in, records and models come out.

`import trice` exports what is here. Each function works in a temporary folder, and with `output=` in a folder of
yours: there its files stay, and a call that was killed continues where it was. The command line and recipes run the
same stages from files.
"""
