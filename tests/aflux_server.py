"""A server that speaks AFLUX over a real socket, for tests and benchmarks: any number of entries, both shapes of
answers, and faults on demand.

python tests/aflux_server.py --entries 100000 --shape array      prints its address and serves until it is ended
"""

import argparse
import gzip
import json
import re
import socket
import struct
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import islice
from urllib.parse import unquote

import numpy as np
import orjson

ALWAYS_SHOWN = ["compound", "auid", "aurl", "spacegroup_relax", "Pearson_symbol_relax"]
KEYWORDS = {  # of AFLOW's schema (https://aflow.org/API/aflux/?schema), as far as the data here go
    *ALWAYS_SHOWN,
    *["species", "composition", "geometry", "positions_fractional", "enthalpy_formation_atom", "energy_cell"],
    *["natoms", "nspecies", "catalog", "dft_type", "prototype", "ldau_type", "aflowlib_date"],
}
HTML = "<html><body>Service temporarily unavailable</body></html>"


# ---------------------------------------------------------------------------------------------------- the entries


def entry(number: int, composition: dict[str, int], /, **changes) -> dict:
    """One entry as AFLOW stores it, atoms species by species, species in alphabetical order; None: without the key."""
    rng = np.random.default_rng(number)
    composition = dict(sorted(composition.items()))
    n_atoms = sum(composition.values())
    size = round((15 * n_atoms) ** (1 / 3), 4)
    return {
        "auid": f"aflow:{number:016x}",
        "aurl": f"aflowlib.duke.edu:AFLOWDATA/LIB3_WEB/{number}",
        "compound": "".join(f"{symbol}{count}" for symbol, count in composition.items()),
        "species": list(composition),
        "nspecies": len(composition),
        "composition": list(composition.values()),
        "natoms": n_atoms,
        "geometry": [size, round(1.1 * size, 4), round(size / 1.1, 4), 90, round(85 + 10 * rng.random(), 3), 90],
        "positions_fractional": rng.random((n_atoms, 3)).round(6).tolist(),
        "spacegroup_relax": int(rng.integers(1, 231)),
        "Pearson_symbol_relax": f"mP{n_atoms}",
        "enthalpy_formation_atom": round(float(rng.normal(-0.3, 0.2)), 6),
        "energy_cell": -8.0 * n_atoms,
        "catalog": "LIB3",
        "dft_type": ["PAW_PBE"],
        "prototype": f"T{number:04d}.ABC",
        "aflowlib_date": ["20200524_13:53:56_GMT-5", "20210901_18:40:12_GMT-4"][: 1 + number % 2],
    } | changes


def entries(seed: int = 0) -> Iterator[dict]:
    """Entries of B, Ta and W without end, of up to eight atoms, equal for equal seeds."""
    rng, number = np.random.default_rng(seed), 10**6 * (1 + seed)
    while True:
        chosen = rng.permutation(["B", "Ta", "W"])[: rng.choice([1, 2, 3], p=[0.1, 0.3, 0.6])]
        counts = rng.integers(1, 1 + 8 // len(chosen), len(chosen))
        composition = dict(zip(chosen.tolist(), counts.tolist(), strict=True))
        yield entry(number, composition, catalog="LIB2" if len(chosen) < 3 else "LIB3")
        number += 1


# ----------------------------------------------------------------------------------------------------- the summons


def split(text: str, separator: str) -> list[str]:
    """The parts of `text` between separators that stand outside parentheses."""
    parts, depth = [""], 0
    for character in text:
        depth += (character == "(") - (character == ")")
        if character == separator and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return parts


def test_of(condition: str) -> Callable[[object], bool]:
    """What a value must be to meet a condition: `,` and, `:` or, `!` not, parentheses, `4*` at least, `*60` at most."""
    for separator, combine in ((",", all), (":", any)):
        if len(split(condition, separator)) > 1:
            tests = [test_of(part) for part in split(condition, separator)]
            return lambda value: combine(test(value) for test in tests)
    if condition.startswith("(") and condition.endswith(")"):
        return test_of(condition[1:-1])
    if condition.startswith("!"):
        test = test_of(condition[1:])
        return lambda value: not test(value)
    if condition == "*":
        return lambda value: value is not None
    if condition.endswith("*"):
        return lambda value: value is not None and value >= float(condition[:-1])
    if condition.startswith("*"):
        return lambda value: value is not None and value <= float(condition[1:])
    wanted = condition.strip("'")
    return lambda value: any(str(one) == wanted for one in (value if isinstance(value, list) else [value]))


test_of.__test__ = False  # no test of pytest


def as_text(value: object) -> str | None:
    """A value as AFLUX's older shape gives it."""
    if isinstance(value, list):
        rows = isinstance(value[0], list)
        return (";" if rows else ",").join(as_text(v) for v in value)
    return None if value is None else str(value)


class Aflux(ThreadingHTTPServer):
    """AFLOW's search API for a list of entries.

    Attributes:
        faults: what is done to the requests to come, one after the other: None answers as it should; for others see
            :meth:`_Handler._answer`.
        spoilt: pieces of a summons -> what is answered to it, always.
        longest: most entries of a page, as servers may cap them.
        added: after how many requests there are further entries, and these.
        delay, pause: seconds before an answer; between the bytes of one that drips.
        summonses, agents, busiest: what was asked so far, by whom, and how much of it at once.
    """

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, entries: list, shape: str = "array") -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.entries, self.shape = entries, shape
        self.faults, self.summonses, self.agents = [], [], set()
        self.longest, self.delay, self.pause = 10**9, 0.0, 0.05
        self.spoilt: dict[tuple[str, ...], str] = {}
        self.added: tuple[int, list] = (0, [])
        self.busy = self.busiest = 0
        self.url = f"http://127.0.0.1:{self.server_port}/API/aflux/"
        self._found: dict[tuple, list] = {}
        self._answers: dict[tuple, bytes] = {}

    def handle_error(self, *_: object) -> None:
        """A client that has hung up is no news."""

    def body(self, summons: str) -> bytes:
        """The answer as bytes, which are kept: to a question asked again it costs next to nothing."""
        key = summons, self.longest, len(self.entries)
        if key not in self._answers:
            self._answers[key] = orjson.dumps(self.answer(summons))
        return self._answers[key]

    def answer(self, summons: str) -> object:
        words = [re.fullmatch(r"(\$?)(\w+)(?:\((.*)\))?", word).groups() for word in split(summons, ",")]
        paging = next(arguments for mark, name, arguments in words if mark and name == "paging")
        words = [(name, condition) for mark, name, condition in words if not mark]
        for name, _ in words:
            if name not in KEYWORDS:
                return {"error": f"keyword {name} is not in the schema"}
        number, size = (int(n) for n in paging.split(","))
        size = min(size, self.longest)
        found = self._matching(words)
        shown = [*ALWAYS_SHOWN, *(name for name, _ in words)]
        page = [
            {key: e[key] for key in shown if key in e} if isinstance(e, dict) else e
            for e in found[(number - 1) * size : number * size]
        ]
        if self.shape == "array" or not page:
            return page
        first = (number - 1) * size + 1
        textual = [{k: as_text(v) for k, v in e.items()} if isinstance(e, dict) else e for e in page]
        return {f"{first + i} of {len(found)}": entry for i, entry in enumerate(textual)}

    def _matching(self, words: list[tuple[str, str | None]]) -> list:
        key = (*words, len(self.entries))
        if key not in self._found:
            tests = [(name, test_of(condition)) for name, condition in words if condition is not None]
            found = [e for e in self.entries if not isinstance(e, dict) or self.meets(e, tests)]
            found.sort(key=lambda e: str(e.get(words[0][0])) if isinstance(e, dict) else "")
            self._found[key] = found
        return self._found[key]

    @staticmethod
    def meets(entry: dict, tests: list[tuple[str, Callable]]) -> bool:
        return all(test(entry.get(name)) for name, test in tests)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        self.server.busy += 1
        self.server.busiest = max(self.server.busiest, self.server.busy)
        try:
            self._answer()
        finally:
            self.server.busy -= 1

    def _answer(self) -> None:
        """As it should be, or as the next of the server's faults says: a status and a text, or a word."""
        server, (path, _, summons) = self.server, self.path.partition("?")
        if path == "/log":
            return self._send(200, json.dumps(server.summonses).encode())
        server.summonses.append(unquote(summons))
        server.agents.add(self.headers["User-Agent"])
        if len(server.summonses) == server.added[0]:
            server.entries = server.entries + server.added[1]
        time.sleep(server.delay)
        fault = server.faults.pop(0) if server.faults else None
        if isinstance(fault, tuple):
            return self._send(fault[0], fault[1].encode())
        if path != "/API/aflux/":
            return self._send(404, b"no such page")
        for pieces, text in server.spoilt.items():
            if all(piece in unquote(summons) for piece in pieces):
                return self._send(200, text.encode())
        answer = server.body(unquote(summons))
        if fault is None:
            return self._send(200, answer)
        getattr(self, "_" + fault.replace(" ", "_").replace("-", "_"))(answer, unquote(summons))

    def _send(self, status: int, answer: bytes, *, of: int | None = None, **headers: str) -> None:
        """`of` announces more bytes than come."""
        self.send_response(status)
        self.send_header("Content-Length", str(of or len(answer)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(answer)

    def _hang_up(self, answer: bytes, _: str) -> None:
        self._send(200, answer[: len(answer) // 2], of=len(answer) + 1)
        self.close_connection = True

    def _reset(self, *_: object) -> None:
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True

    def _time_out(self, answer: bytes, _: str) -> None:
        time.sleep(30 * self.server.pause)
        self.close_connection = True

    def _drip(self, answer: bytes, _: str) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        for i in range(len(answer)):
            self.wfile.write(answer[i : i + 1])
            time.sleep(self.server.pause)

    def _truncated_gzip(self, answer: bytes, _: str) -> None:
        self._send(200, gzip.compress(answer)[:-20], Content_Encoding="gzip")

    def _truncated_text(self, answer: bytes, _: str) -> None:
        self._send(200, answer[:-20])

    def _wrong_content_type(self, answer: bytes, _: str) -> None:
        self._send(200, answer, Content_Type="image/png; charset=utf-16")

    def _html_instead_of_json(self, answer: bytes, _: str) -> None:
        self._send(200, HTML.encode(), Content_Type="application/json")

    def _another_page_again(self, answer: bytes, summons: str) -> None:
        """The page before."""
        before = re.sub(r"paging\((\d+)", lambda m: f"paging({max(1, int(m[1]) - 1)}", summons)
        self._send(200, self.server.body(before))

    def _wrong_count(self, answer: bytes, _: str) -> None:
        told = {re.sub(r"of (\d+)", lambda m: f"of {int(m[1]) + 3}", key): e for key, e in self._keyed(answer)}
        self._send(200, orjson.dumps(told) if told else answer)

    def _half_a_page(self, answer: bytes, _: str) -> None:
        kept = list(self._keyed(answer))
        self._send(200, orjson.dumps(dict(kept[: len(kept) // 2])) if kept else answer)

    @staticmethod
    def _keyed(answer: bytes) -> Iterator[tuple[str, object]]:
        """Entries of the older shape with their keys."""
        page = orjson.loads(answer)
        return iter(page.items()) if isinstance(page, dict) else iter(())

    def log_message(self, *_: object) -> None:
        pass


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--entries", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--shape", choices=["array", "k of n"], default="array")
    given = parser.parse_args()
    server = Aflux(list(islice(entries(given.seed), given.entries)), given.shape)
    print(server.url, flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
