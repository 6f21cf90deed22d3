"""Upload of an adapter and its card to the Hugging Face hub, in one commit.

The commit has the adapter's weights and configuration, `trice.json` (its settings and its template) and the card,
but no log and no checkpoint. Folder names of this machine are replaced by the base model's name on the hub.
`PeftModel.push_to_hub` does not do that, needs the base model in memory, and makes several commits. The token is
that of `hf auth login` or HF_TOKEN. Merged weights are not uploaded.
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path

from trice.errors import InputError, TriceError
from trice.models.adapters import CONFIG, TRAINING_RECORD, adapter_weights, training_record
from trice.storage.files import read_object, read_text
from trice.training.model_card import CARD, hub_name

CONNECTION_ERRORS = ("Connect", "Timeout", "Network", "Protocol", "ReadError", "WriteError", "Offline")


def push(
    adapter: Path, repo: str, *, base: str | None = None, private: bool = False, revision: str | None = None
) -> str:
    """Upload the adapter in a folder to a model repository of the hub and return the commit's address.

    Args:
        adapter: The adapter's folder.
        repo: The repository, which is created if it does not exist.
        base: The base model's name on the hub, if it was trained from a folder.
        private: Create the repository as private.
        revision: The branch, which is created if it does not exist; `main` if None.

    Raises:
        InputError: If there is no adapter, card or token, or `private` is given for a public repository.
        TriceError: If the hub cannot be reached or refuses the upload.
    """
    from huggingface_hub import get_token
    from huggingface_hub.errors import HFValidationError

    files = _files(adapter, base)
    if not get_token():
        raise InputError("there is no token for the hub; log in with 'hf auth login', or set HF_TOKEN")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the hub's advice on metadata
            return _commit(files, repo, adapter.name, private, revision)
    except HFValidationError:
        raise InputError(f"'{repo}' is not a repository name; expected owner/name") from None
    except TriceError:
        raise
    except Exception as error:  # the client's messages may contain addresses and headers
        raise _upload_error(repo, error) from None


def _commit(
    files: Mapping[str, bytes | str], repo: str, name: str, private: bool, revision: str | None
) -> str:
    from huggingface_hub import CommitOperationAdd, HfApi
    from huggingface_hub.utils import disable_progress_bars  # type: ignore[attr-defined]

    disable_progress_bars()  # an error would be on the same line as a bar
    api = HfApi()
    api.create_repo(repo, private=private or None, exist_ok=True)
    if private and not api.repo_info(repo).private:
        raise InputError(f"{repo} exists and is public; leave out --private, or make it private first")
    if revision and revision != "main" and not revision.startswith("refs/"):
        api.create_branch(repo, branch=revision, exist_ok=True)
    added = [
        CommitOperationAdd(path_in_repo=path, path_or_fileobj=content) for path, content in files.items()
    ]
    commit = api.create_commit(repo, added, commit_message=f"Adapter {name}, by trice", revision=revision)
    return str(commit.commit_url)


def _files(adapter: Path, base: str | None) -> dict[str, bytes | str]:
    """The uploaded files by name: a path, or the content of a file in which the base model's name is replaced."""
    from huggingface_hub import ModelCard

    weights = adapter_weights(adapter)
    for name, what in {CONFIG: "adapter", CARD: "model card"}.items():
        if not (adapter / name).is_file():
            raise InputError(f"{adapter}: no {what} here ({name} is missing)")
    config = read_object(adapter / CONFIG)
    trained_on = str(config.get("base_model_name_or_path") or "")
    named = base or hub_name(trained_on)
    if not named:
        raise InputError(
            f"{adapter}: was trained on the folder '{trained_on}'; give its name on the hub with --base"
        )
    record = training_record(adapter)
    template = str(record.get("template", ""))  # a name, or a file's path
    text = _renamed(read_text(adapter / CARD), template, Path(template).name)
    card = ModelCard(text if hub_name(trained_on) else _renamed(text, trained_on, named))
    card.data["base_model"] = named
    contents = {CONFIG: config | {"base_model_name_or_path": named}}
    if record:
        contents[TRAINING_RECORD] = (
            record | {"model": named} | ({"template": Path(template).name} if template else {})
        )
    written = {name: (json.dumps(value, indent=2) + "\n").encode() for name, value in contents.items()}
    tokenizer = [*adapter.glob("tokenizer*"), *adapter.glob("chat_template.jinja")]  # of the format chat
    copied = {path.name: str(path) for path in (weights, *tokenizer)}
    return {**copied, CARD: str(card).encode(), **written}


def _renamed(card: str, local: str, hub: str) -> str:
    """The card with a model's name replaced, only in quotation marks and after --model: a folder may be called
    `model`, which is also a word of the text."""
    if not local:
        return card
    name = re.escape(local)
    return re.sub(rf"(?<=[`\"]){name}(?=[`\"])|(?<=--model ){name}(?= )", lambda _: hub, card)


def _upload_error(repo: str, error: Exception) -> TriceError:
    """The error in one line, without the client's message."""
    causes = list(_causes(error))
    status = next(filter(None, map(_status, causes)), None)
    known = {
        401: "the hub refuses the token, or the token has no access to the repository",
        403: "the token has no write access; create one that has",
        404: "the repository or branch does not exist, or the token has no access to it",
    }
    if status in known:
        return InputError(f"{repo}: {known[status]}")
    if "Invalid metadata in README.md" in str(error):
        return InputError(f"{repo}: the hub refuses the metadata at the top of {CARD}")
    kinds = " ".join(type(cause).__name__ for cause in causes)
    if status:
        reason = f"the hub refuses the upload with HTTP status {status}"
    elif any(word in kinds for word in CONNECTION_ERRORS):
        reason = "the hub cannot be reached, or the connection broke"
    else:
        reason = f"the upload failed ({type(error).__name__})"
    return TriceError(f"{repo}: {reason}; nothing was committed")


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _status(error: BaseException) -> int | None:
    code = getattr(getattr(error, "response", None), "status_code", None)
    return code if isinstance(code, int) else None
