"""Push: an adapter and its card to the Hugging Face hub, in one commit: all of it or nothing.

Uploaded are the adapter's weights and configuration, `trice.json` (how it was made, and the template it wants) and
the card; no log, no checkpoint. No folder of this machine is named in them: the base model is the hub's. The token
is the one that `hf auth login` keeps, or HF_TOKEN. Does not cover merged weights.
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path

from trice.errors import InputError, TriceError
from trice.models.adapters import CONFIG, MADE, adapter_weights, read_made
from trice.storage.files import read_object, read_text
from trice.training.model_card import CARD, hub_name

BROKEN_OFF = ("Connect", "Timeout", "Network", "Protocol", "ReadError", "WriteError", "Offline")


def push(
    adapter: Path, repo: str, *, base: str | None = None, private: bool = False, revision: str | None = None
) -> str:
    """Upload the adapter in a folder to the model repository `repo` of the hub, which is made where there is none,
    on the branch `revision`, else on `main`; returns the commit's address.

    `base` says what the base model is called there, where it was a folder. Raises InputError where there is no
    adapter, card or token, or `private` is asked for a repository that is public, and TriceError where the hub
    cannot be reached or refuses."""
    from huggingface_hub import get_token
    from huggingface_hub.errors import HFValidationError

    files = _files(adapter, base)
    if not get_token():
        raise InputError("no token for the hub: log in with 'hf auth login', or set HF_TOKEN")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the hub's advice on metadata
            return _commit(files, repo, adapter.name, private, revision)
    except HFValidationError:
        raise InputError(f"'{repo}': is no name of a repository, such as 'owner/name'") from None
    except TriceError:
        raise
    except Exception as error:  # the client has many, and addresses and headers may stand in their texts
        raise _told(repo, error) from None


def _commit(
    files: Mapping[str, bytes | str], repo: str, name: str, private: bool, revision: str | None
) -> str:
    from huggingface_hub import CommitOperationAdd, HfApi
    from huggingface_hub.utils import disable_progress_bars  # type: ignore[attr-defined]

    disable_progress_bars()  # an error would stand behind a bar, in its line
    api = HfApi()
    api.create_repo(repo, private=private or None, exist_ok=True)
    if private and not api.repo_info(repo).private:
        raise InputError(
            f"{repo}: is there already, and public; leave out --private, or make it private first"
        )
    if revision and revision != "main" and not revision.startswith("refs/"):
        api.create_branch(repo, branch=revision, exist_ok=True)
    added = [
        CommitOperationAdd(path_in_repo=path, path_or_fileobj=content) for path, content in files.items()
    ]
    commit = api.create_commit(repo, added, commit_message=f"Adapter {name}, by trice", revision=revision)
    return str(commit.commit_url)


def _files(adapter: Path, base: str | None) -> dict[str, bytes | str]:
    """What is uploaded, by its name there: a path, or the content of a file in which the base model is named."""
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
            f"{adapter}: was trained on '{trained_on}'; say with --base what that is called on the hub"
        )
    made = read_made(adapter)
    template = str(made.get("template", "plain"))  # a name, or a file's path
    text = _renamed(read_text(adapter / CARD), template, Path(template).name)
    card = ModelCard(text if hub_name(trained_on) else _renamed(text, trained_on, named))
    card.data["base_model"] = named
    contents = {CONFIG: config | {"base_model_name_or_path": named}}
    if made:
        contents[MADE] = made | {"model": named, "template": Path(template).name}
    written = {name: (json.dumps(value, indent=2) + "\n").encode() for name, value in contents.items()}
    return {weights.name: str(weights), CARD: str(card).encode(), **written}


def _renamed(card: str, local: str, there: str) -> str:
    """A card with a name replaced where it stands as one, in quotation marks or behind --model: a folder may be
    called `model`, as other things are."""
    name = re.escape(local)
    return (
        re.sub(rf"(?<=[`\"]){name}(?=[`\"])|(?<=--model ){name}(?= )", lambda _: there, card)
        if local
        else card
    )


def _told(repo: str, error: Exception) -> TriceError:
    """What went wrong, in one line without the client's own words."""
    causes = list(_causes(error))
    status = next(filter(None, map(_status, causes)), None)
    known = {
        401: "the hub does not know the token, or it may not see the repository",
        403: "the token may not write there: make one that may",
        404: "there is no such repository or branch, or the token may not see it",
    }
    if status in known:
        return InputError(f"{repo}: {known[status]}")
    if "Invalid metadata in README.md" in str(error):
        return InputError(f"{repo}: the hub refuses the metadata at the top of {CARD}")
    kinds = " ".join(type(cause).__name__ for cause in causes)
    if status:
        said = f"the hub refuses it with HTTP status {status}"
    elif any(word in kinds for word in BROKEN_OFF):
        said = "the hub cannot be reached, or broke off"
    else:
        said = f"the upload failed ({type(error).__name__})"
    return TriceError(f"{repo}: {said}; nothing was committed")


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _status(error: BaseException) -> int | None:
    code = getattr(getattr(error, "response", None), "status_code", None)
    return code if isinstance(code, int) else None
