"""A user's tool in a program of its own: it writes down what it was called with, and is killed at one call."""

SHOUT = '''
import os, signal, sys, threading
from pathlib import Path
from trice.types import ToolCall
from trice.tools.function_tool import FunctionTool

last = threading.Event()

def shout(text: str) -> str:
    """Says it loudly."""
    with open("seen", "a") as file:
        file.write(text)
    if text == sys.argv[1]:
        os.kill(os.getpid(), signal.SIGKILL)
    if text == "d":
        last.set()
    return text.upper()
'''
