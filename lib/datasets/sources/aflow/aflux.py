"""Asks AFLOW, politely and patiently, for the pages that are not there yet.

A page late in a long query is slow for AFLOW: long queries are split.
"""

import hashlib
import math
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TypeVar

import httpx

from lib.core.errors import BadInput
from lib.core.parameters import Params
from lib.core.web import PassingFault, body, patiently
from lib.core.workers import progress
from lib.datasets.sources.aflow.pages import Head, content_of, entries_of, keep, kept_head
from lib.datasets.sources.aflow.queries import Query

T, R = TypeVar("T"), TypeVar("R")


@dataclass
class Answers:
    """A query's pages so far, by number."""

    query: Query
    n_pages: int | None = None  # once known
    heads: dict[int, Head] = field(default_factory=dict)
    paths: dict[int, Path] = field(default_factory=dict)
    mending: threading.RLock = field(default_factory=threading.RLock)

    @property
    def n_entries(self) -> int:
        """How many entries have come."""
        return sum(head.entries for head in self.heads.values())

    @property
    def told(self) -> list[int]:
        """How many entries AFLOW said there are, page by page, where it did."""
        return [self.heads[number].told for number in sorted(self.heads) if self.heads[number].told is not None]


class Aflux:
    """Asks for pages that are not kept yet, a few at a time and never faster than one each `aflow_pause` seconds."""

    def __init__(self, params: Params, folder: Path, http: httpx.Client) -> None:
        self.params, self.folder, self.http = params, folder, http
        self._next, self._turn, self._failed = 0.0, threading.Lock(), []

    def survey(self, asked: Sequence[Query]) -> list[Answers]:
        """How many pages each query has, split until none has more than `aflow_deepest_page`; only pages are asked for
        that are needed anyway, and empty ones behind the last. Raises as :meth:`page`."""
        found: list[Answers] = []
        while asked:
            split = []
            for one in self._all(self._extent, asked, desc="AFLOW: counting", unit="query"):
                found += [one] if isinstance(one, Answers) else []
                split += [] if isinstance(one, Answers) else one
            asked = split
        self._distrust_short_pages(found)
        return sorted(found, key=lambda answers: answers.query.name)

    def fetch(self, surveyed: Sequence[Answers]) -> None:
        """All pages that are missing. Raises as :meth:`page`."""
        missing = [(a, n) for a in surveyed for n in range(1, a.n_pages + 1) if n not in a.heads]
        self._all(lambda one: self.page(*one), missing, desc="AFLOW: fetching", unit="page")
        self._all(self._added, surveyed, desc="AFLOW: added meanwhile", unit="query")

    def page(self, answers: Answers, number: int, *, mend: bool = True) -> Head:
        """A page, from disk or from AFLOW.

        Raises BadInput if AFLOW refuses the question, or does not answer with a page in several attempts: one that has
        fewer entries than it should, or repeats another, is none.
        """
        query, params = answers.query, self.params
        url = f"{params.aflow_url}?{query.summons(params)},$paging({number},{params.aflow_page_size})"
        digest = hashlib.sha256(url.encode()).hexdigest()[:12]
        path = self.folder / f"{query.name}_{number:05d}_{digest}.json.gz"
        if path.exists():
            head = kept_head(path)
        else:
            head, answer = self._answer(answers, number, url, mend)
            keep(path, head, answer)
        answers.heads[number], answers.paths[number] = head, path
        return head

    def _answer(self, answers: Answers, number: int, url: str, mend: bool) -> tuple[Head, bytes]:
        """A page that agrees with the others. With `mend`, those that contradict it to the end are asked for again,
        once; several pages of a query may find the same one wrong."""
        against: dict[int, Head] = {}
        try:
            ask = partial(self._ask, answers, number, url, against)
            return patiently(ask, f"page {number} of AFLOW's {answers.query.name}")
        except BadInput:
            with answers.mending:
                wrong = [n for n, head in against.items() if answers.heads.get(n) is head]
                for n in wrong:  # else they would stand against it for ever
                    del answers.heads[n]
                    answers.paths.pop(n).unlink(missing_ok=True)
                if not mend or not against:
                    raise
                for n in sorted(wrong):
                    self.page(answers, n, mend=False)
        return self._answer(answers, number, url, mend=False)

    def _ask(self, answers: Answers, number: int, url: str, against: dict[int, Head]) -> tuple[Head, bytes]:
        """One attempt; `against` takes the pages that contradict the answer."""
        self._wait()
        asked, started = datetime.now(UTC).isoformat(timespec="seconds"), time.monotonic()
        answer = body(self.http, url)
        seconds = time.monotonic() - started
        entries, told = entries_of(answer, url)
        sums = hashlib.sha256(answer).hexdigest(), len(answer), len(entries), told, content_of(entries)
        head = Head(url, asked, round(seconds, 3), *sums)
        self._check(answers, number, head, against)
        return head, answer

    def _check(self, answers: Answers, number: int, head: Head, against: dict[int, Head]) -> None:
        """Raises PassingFault if a page lacks entries, or repeats another page where all are asked for."""
        name, size, before = answers.query.name, self.params.aflow_page_size, dict(answers.heads)
        first = [n for n in sorted(before) if before[n].told is not None][:1]
        total = max([before[n].told for n in first] + [head.told or 0])
        expected = min(size, max(0, total - (number - 1) * size))
        if answers.n_pages and number < answers.n_pages and not total:
            expected = size
        if head.entries < expected:
            against |= {n: before[n] for n in first if before[n].told != head.told}
            others = sum(other.entries for n, other in before.items() if n < number)
            remedy = f"set the parameter 'aflow_page_size' to at most {head.entries}" if head.entries else "wait"
            raise PassingFault(
                f"AFLOW gave {others + head.entries} of {total or 'more'} entries of {name}, the last {head.entries} "
                f"as page {number}, which should hold {expected}: {remedy}"
            )
        same = [n for n, other in before.items() if n != number and other.content == head.content]
        if head.entries and same and self.params.aflow_max_pages is None:  # else without end
            against |= {n: before[n] for n in same}
            raise PassingFault(f"page {number} of {name} repeats page {same[0]}")

    def _extent(self, query: Query) -> Answers | list[Query]:
        """A query's number of pages, or the queries that take its place. Where AFLOW does not tell, the first page that
        would be too deep is asked for; if it is empty, pages 2, 4, 8, ... until one is not full, and those halfway."""
        answers, size, most = Answers(query), self.params.aflow_page_size, self.params.aflow_max_pages
        deepest = self.params.aflow_deepest_page
        first = self.page(answers, 1)
        answers.n_pages = 1 if first.told is None else max(1, math.ceil(first.told / size))
        if most is not None:
            while self._goes_on(answers, most):
                self.page(answers, len(answers.heads) + 1)
            answers.n_pages = len(answers.heads)
            return answers
        if first.told is None and first.entries == size:
            if query.parts() and self.page(answers, deepest + 1).entries:
                return query.parts()
            low, high = 1, 2
            while self.page(answers, high).entries == size:
                low, high = high, 2 * high
            while high - low > 1:
                middle = (low + high) // 2
                low, high = (middle, high) if self.page(answers, middle).entries == size else (low, middle)
            answers.n_pages = high if answers.heads[high].entries else low
        return (query.parts() if answers.n_pages > deepest else []) or answers

    def _goes_on(self, answers: Answers, most: int) -> bool:
        """Whether a trial of at most so many pages asks for another."""
        n = len(answers.heads)
        return (
            n < most
            and answers.heads[n].entries == self.params.aflow_page_size
            and [answers.n_entries] != answers.told[:1]
        )

    def _added(self, answers: Answers) -> None:
        """Pages behind the last, where AFLOW has got more entries meanwhile than it told at first."""
        size, most = self.params.aflow_page_size, self.params.aflow_max_pages
        while most is None and answers.told and answers.told[-1] > answers.n_pages * size:
            answers.n_pages += 1
            self.page(answers, answers.n_pages)

    def _distrust_short_pages(self, surveyed: Sequence[Answers]) -> None:
        """Where AFLOW does not tell how many entries there are, a page that is not full ends a query; a server that
        gives smaller pages than asked for would end them all. Raises BadInput if there is a page behind the largest."""
        ends = [a for a in surveyed if a.n_pages == 1 and not a.told and 0 < a.n_entries < self.params.aflow_page_size]
        if not ends or self.params.aflow_max_pages is not None:
            return
        largest = max(ends, key=lambda answers: answers.n_entries)
        given = largest.n_entries
        if self.page(largest, 2).entries:
            raise BadInput(
                f"AFLOW gives pages of {given} entries where {self.params.aflow_page_size} are asked for; set the "
                f"parameter 'aflow_page_size' to at most {given}"
            )

    def _all(self, task: Callable[[T], R], items: Sequence[T], **bar) -> list[R]:
        """The task's results in order, `aflow_connections` at a time; the first failure ends all and is raised."""

        def careful(item: T) -> R | None:
            if self._failed:
                return None
            try:
                return task(item)
            except Exception as error:
                self._failed.append(error)

        self._failed = []
        with ThreadPoolExecutor(self.params.aflow_connections) as pool:
            found = list(progress(pool.map(careful, items), total=len(items), **bar))
        if self._failed:
            raise self._failed[0]
        return found

    def _wait(self) -> None:
        """Until it is this request's turn."""
        if self._failed:
            raise BadInput("another request has failed; run again to go on")
        with self._turn:
            start = max(time.monotonic(), self._next)
            self._next = start + self.params.aflow_pause
        time.sleep(max(0.0, start - time.monotonic()))
