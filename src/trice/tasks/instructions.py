"""The instructions of the tasks that ship.

Those of `math`, `qa`, `lama` and `mlqa` are constants of the format: the published checkpoints were trained on these
sentences (evaluate/generate.py of github.com/zjunlp/TRICE). The others are ours.
"""

MATH = "Given a math problem, please answer it and you can use a calculator for help."
QA = "Given a question, please answer it and you can use a WikiSearch for help."
LAMA = "Given a question, please answer it and you can use a QA model for help."
MLQA = "Given a context, please answer the question in English and you can use a translator for help."
HOTPOT = "Given a question, please answer it and you can use a retriever for help."
MIX = (
    "Given a question, please answer it in English and you can use a calculator, a WikiSearch, a QA model or a "
    "translator for help."
)
ASSISTANT = (
    "Answer the question, and only with the answer. Use the tools for arithmetic and for facts; call several in one "
    "message if they do not need each other's results."
)
