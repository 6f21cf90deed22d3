"""Formats: how prompts and calls are written as text (`prompt`), and how calls are parsed from it (`paper`)."""
