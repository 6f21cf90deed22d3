"""The functions that `import trice` exports: questions, models and tasks in, records and models out.

Each function works in a temporary folder. With `output=` its files stay in that folder, and a call that was killed
resumes. The computation is in `trice.stages` and `trice.training`, which the command line and recipes use too.
"""
