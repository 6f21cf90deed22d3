"""Durable rows of one output file while a stage produces them.

A stage appends each finished row to `.<output>.journal` as one line of JSON and flushes it to disk. If the stage is
killed and started again, it skips the rows it finds there; a torn last line is dropped. When all rows exist, the
output is written in one step, and the journal keeps only its first and last line.

The first line holds the settings that the rows depend on and the expected number of rows. Every line has its time,
so rate and remaining time can be computed while another process writes. Training is not covered here: the trainer
keeps checkpoints.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from pydantic import BaseModel

from trice.errors import InputError, TriceError
from trice.progress import notice
from trice.storage.files import dump_row, sync_folder, write_rows, write_text
from trice.storage.inputs import check_same_inputs, input_hash, is_finished, to_json
from trice.storage.locks import lock_file
from trice.storage.row_state import RowState, append, journal_path, now_entry, read_state, to_lines

RETRY_HINT = "--retry-failed tries them again"


class RowStore:
    """The durable rows of one output file.

    Use it as a context manager, from one thread at a time. `key in store` says whether a row is finished, `add`,
    `fail`, `keep` and `spend` store durably, and `finish` writes the output. If `is_finished` is true, there is nothing
    to do. `is_resumed` says whether an unfinished run with the same settings came before, even if it stored no row.

    Args:
        output: the file that the rows belong to.
        settings: everything that the rows depend on.
        total: how many rows are expected, for `trice run --status`.
        retry: forget failed rows, so that they are tried again.

    Raises:
        InputError: `output` is a folder, or unfinished work was begun with other settings.
        TriceError: another process is working on the same output, or nothing can be written.

    Example:
        >>> with RowStore(output, {"model": "m", "seed": 0}) as store:  # doctest: +SKIP
        ...     if not store.is_finished:
        ...         keys = [store.key(question) for question in questions]
        ...         for key, question in zip(keys, questions):
        ...             if key not in store:
        ...                 store.add({key: answer(question)})
        ...         store.finish(store.rows[key] for key in keys)
    """

    def __init__(
        self, output: Path, settings: Mapping[str, Any], total: int = 0, *, retry: bool = False
    ) -> None:
        self.output, self.path = output, journal_path(output)
        if output.is_dir():  # checked before the work, not when the output is written
            raise InputError(f"{output}: is a folder; the output has to be a file")
        plain = json.loads(to_json(settings, sort=False))
        self._key_prefix = hashlib.sha256(to_json(plain).encode())
        with self._write_errors():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file, locked = lock_file(self.path)
        if not locked:
            notice(f"{self.path}: this file system has no locks; start no second process for this file")
        try:
            kept = self._load(plain)
            self._state = kept or self._start(now_entry(settings=plain, total=total))
            self.is_finished = self._is_finished(self._state, plain) and not (retry and self._state.failed)
            if kept:
                self._resume(kept, retry)
        except BaseException:
            self._file.close()
            raise
        self.rows, self.failed = self._state.rows, self._state.failed
        self.unfinished = self._state.unfinished

    def _load(self, settings: dict[str, Any]) -> RowState | None:
        """The stored state; None if the work has to begin again, which loses no row of these settings."""
        state = read_state(self.output)
        self.is_resumed = state is not None and state.summary is None and state.settings == settings
        if state is None:
            return None
        if state.summary:
            same = state.settings == settings
            return state if same and (state.rows or self._is_finished(state, settings)) else None
        if state.rows or state.unfinished:
            check_same_inputs(self.path, state.settings, settings, "delete that file to start over")
        begun = state.rows or state.failed or state.unfinished or state.spent
        return state if state.settings == settings and begun else None

    def _is_finished(self, state: RowState, settings: dict[str, Any]) -> bool:
        if state.summary is None:
            return False
        return is_finished(input_hash(state.settings), input_hash(settings), [self.output])

    def _start(self, header: dict[str, Any]) -> RowState:
        with self._write_errors():
            self._file.truncate(0)
            append(self._file, [header])
            sync_folder(self.path.parent)
        return RowState(header)

    def _resume(self, state: RowState, retry: bool) -> None:
        count = state.failed_count
        failed = f"; {count} rows failed, {RETRY_HINT}" if count and not retry else ""
        if self.is_finished:
            notice(f"{self.output}: is finished; delete it to run again{failed}")
            return
        notice(f"{self.output}: resuming after {len(state.rows)} finished rows{failed}")
        with self._write_errors():
            self._file.truncate(state.size)
        self._store(now_entry(resumed=True, retry=retry))

    @contextlib.contextmanager
    def _write_errors(self) -> Iterator[None]:
        try:
            yield
        except BlockingIOError:
            raise TriceError(f"{self.output}: another process is writing it; wait until it ends") from None
        except OSError as error:
            raise TriceError(
                f"{self.path}: cannot be written ({error.strerror}); the rows it holds are kept"
            ) from error

    def _store(self, *entries: dict[str, Any], sync: bool = True) -> None:
        with self._write_errors():
            append(self._file, entries, sync=sync)
        for entry in entries:
            self._state.apply(entry)

    def key(self, *parts: object) -> str:
        """The content hash of the settings and `parts`, which are rows or JSON values."""
        hashed = self._key_prefix.copy()
        hashed.update(to_json(parts).encode())
        return hashed.hexdigest()[:32]

    def __contains__(self, key: object) -> bool:
        return key in self.rows

    def add(self, rows: Mapping[str, BaseModel | Mapping[str, Any]]) -> None:
        """Store finished rows durably under their keys; a key that exists keeps its row. Many rows at once take
        hardly longer than one, since there is one fsync."""
        new = {key: json.loads(dump_row(row)) for key, row in rows.items() if key not in self.rows}
        if new:
            shared = now_entry()
            self._store(*(shared | {"key": key, "row": row} for key, row in new.items()))

    def fail(self, key: str, reason: str) -> None:
        """Store that the row of `key` failed, and why; `--retry-failed` tries it again."""
        if key not in self.rows:
            self._store(now_entry(key=key, failed=reason))

    def keep(self, key: str, value: object) -> None:
        """Store what continues the work on the row of `key` after an interruption, such as the paid part of it."""
        self._store(now_entry(key=key, unfinished=value))

    @property
    def spent(self) -> dict[str, int]:
        """What a paid endpoint has charged so far."""
        return self._state.spent

    def spend(self, spent: dict[str, int]) -> None:
        """Store what a paid endpoint has charged so far. The next row takes it to the disk."""
        if not self._file.closed:  # else another use of the endpoint is not the cost of this file
            self._store(now_entry(spent=spent), sync=False)

    def finish(self, rows: Iterable[BaseModel | Mapping[str, Any]]) -> None:
        """Write the output from `rows`. Without failed rows the journal shrinks to its first and last line; else it
        keeps all lines, for another try."""
        write_rows(self.output, rows)
        sync_folder(self.output.parent)  # before the journal drops its rows
        summary = {
            "rows": len(self.rows),
            "failed": len(self.failed),
            "seconds": round(self._state.seconds, 3),
        }
        end = now_entry(finished=summary, **({"spent": self.spent} if self.spent else {}))
        if self.failed:
            self._store(end)
            notice(f"{self.output}: {len(self.failed)} rows failed; {RETRY_HINT}")
        else:
            write_text(self.path, to_lines([self._state.header, end]))
        self._file.close()
        self.is_finished = True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(OSError):
            self._file.close()
