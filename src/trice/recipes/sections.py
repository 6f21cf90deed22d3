"""The groups of keys of a recipe: data sets, split, label, candidates, scores.

The text below each key is its documentation; docs/reference/recipes.md is generated from it. The keys of training
are in `trice.training.settings`, those of evaluation in `trice.recipes.conditions`.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, model_validator

from trice.datasets import NAMES, TASKS
from trice.errors import InputError
from trice.frontier import Aim
from trice.models.call_threshold import Signal
from trice.models.engine import ToolChoice
from trice.models.sampling import KNOWN, SPLIT_SAMPLES, SPLIT_TEMPERATURE, Sampling
from trice.settings import FREE, Settings
from trice.tools import canonical_name
from trice.types import ALL

if TYPE_CHECKING:
    from trice.models.endpoint import Endpoint


def names_files(entry: dict[str, Any]) -> bool:
    """Whether an entry of `data`, before it is validated, names files of the user."""
    return bool(entry.get("file") or entry.get("train_file"))


class DataSet(Settings):
    """One data set, by name or from your own files."""

    dataset: str
    """a name that `trice data` lists; for your own files a name of letters, digits, `-` and `.`, by default the
    name of `file`"""
    task: str | None = None
    """the task of your own files in a `mix`: `math`, `qa`, `lama`, `mlqa`, `stock.yaml` or `module:name`"""
    hub: bool = False
    """fetch it from the Hugging Face hub, not from the official files under `TRICE_DATA`"""
    file: Path | None = None
    """your own questions in one file, JSON lines, CSV or Parquet, with `question` and `answer`, and `expression`
    for the teacher `annotations`; a fifth of them, chosen by the recipe's `seed`, is held out for testing"""
    train_file: Path | None = None
    """your own training questions in the same form, if you split them yourself"""
    test_file: Path | None = None
    """your own test questions in the same form"""
    train: int | None = Field(None, ge=0)
    """training questions, before `scale`; by default the paper's number, all of a starter set (2,000 of `starter`,
    800 of `starter-mlqa`, each fact once of the others), or your whole file"""
    test: int | None = Field(None, ge=1)
    """test questions; by default the same (300 of `starter`, 200 of `starter-mlqa`, a fifth of `file`)"""
    feedback: int | None = Field(None, ge=1)
    """questions for the rounds of stage 2 (`rlef.rounds`) apart from those of stage 1, before `scale`; only their
    answers are used; by default the rounds ask the training questions"""
    feedback_file: Path | None = None
    """your own questions for these rounds in the same form, with `train_file`"""
    tool: Literal["required"] | None = None
    """`required` if only a tool can know the answers (stock, prices, time): no question counts as known, each is
    labelled with a call, and each counts as needing the tool"""

    @model_validator(mode="before")
    @classmethod
    def _own_task(cls, value: Any) -> Any:
        """Fill in the task of a known data set, and the name of a file's questions."""
        if isinstance(value, dict) and value.get("file") and "dataset" not in value:
            stem = Path(str(value["file"])).name.partition(".")[0]
            value = {**value, "dataset": re.sub("[^A-Za-z0-9-]+", "-", stem).strip("-") or "questions"}
        if isinstance(value, dict) and isinstance(value.get("dataset"), str) and not names_files(value):
            value = {**value, "dataset": canonical_name(value["dataset"], NAMES)}
        if isinstance(value, dict) and value.get("dataset") in TASKS:
            return {"task": TASKS[value["dataset"]], **value}
        return value

    @model_validator(mode="after")
    def _both_files(self) -> DataSet:
        if (self.train_file is None) != (self.test_file is None):
            raise ValueError("one of 'train_file' and 'test_file' is missing; give both, or one 'file'")
        if self.file and self.train_file:
            raise ValueError(
                "'file' is split into train and test; leave it out, or 'train_file' and 'test_file'"
            )
        if self.feedback_file and not self.train_file:
            raise ValueError("'feedback_file' comes with 'train_file' and 'test_file'; give them too")
        if self.feedback and self.train is None and not self.feedback_file:
            raise ValueError("'feedback' takes the questions after those of 'train'; set 'train' too")
        if self.files and (self.dataset in NAMES or self.hub):
            raise ValueError(
                f"'{self.dataset}' names files: choose another name than trice's, and leave out 'hub'"
            )
        if self.files and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9.-]*", self.dataset):
            raise ValueError(f"the name '{self.dataset}' is not valid; use letters, digits, '-' and '.'")
        if self.dataset.casefold() == ALL:
            raise ValueError(f"the name '{self.dataset}' means all data sets together; choose another")
        return self

    @property
    def has_feedback(self) -> bool:
        """Whether the rounds of stage 2 ask other questions than stage 1."""
        return bool(self.feedback or self.feedback_file)

    @property
    def files(self) -> list[Path]:
        """The user's own files of questions."""
        named = (self.file, self.train_file, self.test_file, self.feedback_file)
        return [path for path in named if path]


class Split(Settings):
    """The base model answers every training question with tools withheld."""

    few_shot: str | None = None
    """worked examples in the prompt: `direct`, `calls`, `mixed`, a `.jsonl` file of `input` and `output`, or
    null for none; `zero-shot`, and so the need of test questions, uses the same"""
    max_new_tokens: int | None = Field(None, ge=1)
    """length limit of an answer, in tokens; by default as in evaluation"""
    samples: int = Field(SPLIT_SAMPLES, ge=1)
    """answers to a question whose first, greedy answer is right; the others are sampled"""
    temperature: float = Field(SPLIT_TEMPERATURE, gt=0)
    """temperature of the sampled answers"""
    known: float = Field(KNOWN, gt=0, le=1)
    """a question counts as known if its first answer and at least this share of all answers are right"""

    @model_validator(mode="after")
    def _one_answer_is_greedy(self) -> Split:
        if self.samples == 1 and (self.temperature, self.known) != (SPLIT_TEMPERATURE, KNOWN):
            raise ValueError("temperature and known do not apply to samples=1; leave them out, or draw more")
        return self


class Calibrate(Settings):
    """A call threshold for `stage-1` and `both`, with every seed: `trice calibrate` on questions that are held out. The
    test questions are then answered with and without a call, so that the report shows every threshold."""

    questions: int = Field(0, ge=0)
    """training questions of each data set that are held out for it; 0 calibrates nothing"""
    max_calls: float | None = Field(None, ge=0, le=1)
    """aim: the best accuracy with calls on at most this share of the questions"""
    min_accuracy: float | None = Field(None, ge=0, le=1)
    """aim: the fewest calls with at least this accuracy"""
    cost: float | None = Field(None, ge=0, le=1)
    """aim: the best accuracy minus this price for each call; without an aim, the fewest calls without a loss"""
    signal: Signal = "p-call"
    """what is compared with the threshold: `p-call`, the probability that the response begins with a call, or `probe`,
    a linear probe for need on a hidden state"""

    @property
    def aim(self) -> Aim:
        """What the threshold is chosen for."""
        return Aim(self.max_calls, self.min_accuracy, self.cost)

    @model_validator(mode="after")
    def _one_aim(self) -> Calibrate:
        try:
            _ = self.aim
        except InputError as error:
            raise ValueError(str(error)) from None
        if not self.questions and self != Calibrate.model_construct():
            raise ValueError("set 'questions' to the number of held-out questions")
        return self


class EndpointAt(Settings):
    """An OpenAI-compatible server, or several. Keys come from TRICE_API_KEYS, OPENAI_API_KEY or `keys_file`."""

    url: str | list[str]
    """such as `http://localhost:8000/v1`, or a list of servers of the same model, which take turns"""
    model: str
    """the model's name there"""
    keys_file: Annotated[Path | None, FREE] = None
    """one key a line, in a file that others cannot read"""
    timeout: Annotated[float, FREE] = Field(60, gt=0)
    """seconds for one attempt"""
    api: Literal["chat", "completions"] = "chat"
    """`chat` (the server's own chat template), or `completions`: the prompt is written in the recipe's
    `template`, as for a local model; for your own model behind vLLM, SGLang or llama.cpp"""
    tokenizer: str | None = None
    """with `api: completions`: a hub name or folder; prompts are then sent as token ids, and ids are kept
    if the server returns them (vLLM from 0.10.2, SGLang), so that training does not tokenise again"""
    send_temperature: bool = True
    """whether requests name a temperature; with `false` the server's default applies. A server that refuses the
    field is no longer sent it in any case"""
    max_requests: Annotated[int | None, FREE] = Field(None, ge=1)
    """the limit of requests, failed ones included"""
    max_tokens: Annotated[int | None, FREE] = Field(None, ge=1)
    """the limit of tokens, of prompts and completions"""
    max_cost: Annotated[float | None, FREE] = Field(None, gt=0)
    """the limit of cost; needs the prices"""
    prompt_price: Annotated[float, FREE] = Field(0.0, ge=0)
    """price of a million prompt tokens, in any currency"""
    completion_price: Annotated[float, FREE] = Field(0.0, ge=0)
    """price of a million completion tokens"""

    def open(self) -> Endpoint:
        """A client of the endpoint. Raises InputError for missing keys, an URL that is not valid, or a cost limit
        without prices."""
        from trice.models.api_keys import api_keys
        from trice.models.budget import Budget
        from trice.models.endpoint import Endpoint

        limits = (self.max_requests, self.max_tokens, self.max_cost, self.prompt_price, self.completion_price)
        return Endpoint(
            self.url, self.model, api_keys(self.keys_file), self.timeout, budget=Budget(*limits), api=self.api,
            tokenizer=self.tokenizer, send_temperature=self.send_temperature,
        )  # fmt: skip


class Label(Settings):
    """The teacher, which gives a call for questions that the base model got wrong."""

    teacher: Literal["annotations", "rule", "endpoint"] = "annotations"
    """`annotations` (the field `expression` of each question), `rule` (what the task's tool suggests: the calculator
    and your tools take `expression`, WikiSearch key terms, QA the cloze, as a question if its relation is known,
    and the translator the question itself), both offline, or `endpoint`"""
    endpoint: EndpointAt | None = None
    retries: int = Field(2, ge=0)
    """how often an endpoint is retried after a rejected label"""
    prompt: Path | None = None
    """a JSON file of the endpoint's instructions: `system`, and `examples` of `question`, `answer` and `call`; by
    default those that ship for the task"""
    reading: float = Field(0, ge=0, le=1)
    """the share of the calls of WikiSearch, the retriever or the translator for which stage 1 also teaches to
    answer from what they returned (`true`: all); not in the paper"""

    @model_validator(mode="after")
    def _has_endpoint(self) -> Label:
        if self.teacher == "endpoint" and self.endpoint is None:
            raise ValueError("teacher 'endpoint' needs the key 'endpoint' with url and model")
        return self


class Origin(Settings):
    """Where candidates come from."""

    origin: str
    """its name: letters, digits, `-` and `.`"""
    source: Literal["split", "base", "early", "stage-1", "model", "endpoint"] = Field(alias="from")
    """`split` (the base model's answers from when its questions were split, without another generation), `base` (the
    base model), `early` (stage 1's first checkpoint), `stage-1` (its last), `endpoint`, or `model` (any other)"""
    endpoint: EndpointAt | None = None
    model: str | None = None
    """with `from: model`: a hub name or folder, of any family"""
    adapter: Path | None = None
    """with `from: model`: an adapter's folder, or any checkpoint's"""
    format: str | None = None
    """with `from: model`: its format; by default the recipe's format and template"""
    template: str | None = None
    """with `from: model`: its prompt template"""
    few_shot: str | None = None
    """worked examples in the prompt, as in `split`"""
    tool_choice: ToolChoice = "auto"
    """`none` forbids a tool call, `required` forces one"""
    samples: int = Field(1, ge=1)
    """responses to each question"""
    beams: int = Field(1, ge=1)
    """beams of a beam search, the best of which are the samples; 1 means no beam search"""
    temperature: float = Field(0.0, ge=0)
    """0 is greedy"""
    top_k: int = Field(0, ge=0)
    """keep the k likeliest tokens; 0 keeps all"""
    top_p: float = Field(1.0, gt=0, le=1)
    """keep the likeliest tokens of this mass"""
    repetition_penalty: float = Field(1.0, gt=0)
    """above 1, tokens that occur in the prompt or the response become less likely; the paper used 1.3"""

    @model_validator(mode="after")
    def _has_endpoint(self) -> Origin:
        if (self.source == "endpoint") != (self.endpoint is not None):
            raise ValueError(
                "the key 'endpoint' with url and model belongs to from 'endpoint'; give both or neither"
            )
        if self.endpoint and self.beams > 1:
            raise ValueError("'beams' does not apply to an endpoint; leave it out")
        if (self.source == "model") != (self.model is not None):
            raise ValueError("the key 'model' belongs to from 'model'; give both or neither")
        if self.source != "model" and (self.adapter or self.format or self.template):
            raise ValueError("'adapter', 'format' and 'template' apply to from 'model' only; leave them out")
        if self.source == "split" and self.model_dump(exclude_defaults=True, exclude={"origin", "source"}):
            raise ValueError("from 'split' generates nothing; give the key 'origin' alone")
        return self

    @model_validator(mode="after")
    def _sampling_has_an_effect(self) -> Origin:
        unused, endpoint = self.sampling().without_effect, self.endpoint
        if endpoint and not endpoint.send_temperature:
            if self.temperature:
                raise ValueError("'temperature' does not apply to an endpoint with send_temperature: false")
        elif unused and not (endpoint and unused == "samples"):
            raise ValueError(
                f"'{unused}' does not apply at temperature 0; set 'temperature', or leave it out"
            )
        return self

    def sampling(self, **limits: int) -> Sampling:
        """How the responses are sampled; `limits` are their length and the seed."""
        return Sampling(
            samples=self.samples, beams=self.beams, temperature=self.temperature, top_k=self.top_k,
            top_p=self.top_p, repetition_penalty=self.repetition_penalty, **limits,
        )  # fmt: skip


class Score(Settings):
    """How candidates are ranked."""

    reward: str = "paper"
    """`paper`, `released` (the scorer published with the paper), `trice.rewards:correctness` (1 or 0, so
    right responses tie), or your own `module:function`"""
    distinct: bool = True
    """keep one of several candidates with the same text"""
    second_turn: bool = False
    """the stage-1 model reads a tool's output that is not an answer yet, and the candidate is judged by its answer;
    otherwise a call is right if the output supports a gold answer"""


DEFAULT_ORIGINS = (  # need no worked examples, so they suit every task
    Origin.model_validate({"origin": "direct", "from": "split"}),
    Origin.model_validate(
        {"origin": "sampled", "from": "stage-1", "samples": 4, "temperature": 1.0, "top_k": 50}
    ),
)
