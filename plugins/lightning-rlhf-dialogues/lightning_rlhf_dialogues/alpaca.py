"""Stanford Alpaca's instructions, and the seed tasks that they grew from."""

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal

from lightning_rlhf.errors import RecordError
from lightning_rlhf.records import Demonstration, Message, Record
from lightning_rlhf_dialogues.fields import answered, is_there, list_of, mapping_of, pairs, text_of
from lightning_rlhf_dialogues.reading import LayoutSource, sample

__all__ = ["Alpaca"]


class Alpaca(LayoutSource):
    """Alpaca's rows: `instruction`, `input` (may be empty or absent) and `output`; one demonstration each.

    A row may also have `system`, `history` (pairs of an instruction and its answer, before this one), or `instances`,
    the inputs and outputs of one instruction, as in self-instruct's seed tasks: a demonstration each.

    Args:
        path: a file (.json, .jsonl, .csv or .parquet, plain or .gz), a folder of files, a list of these, or files per
            split.
        val_fraction: share of the instructions to hold out for validation, chosen by a hash of instruction and input.
        test_fraction: share of the instructions to hold out for testing.
        input_role: user writes an input below its instruction, on a line of its own; tool makes it a turn of its own,
            which the template `alpaca` heads with `### Input:`, as Stanford's prompt does.
    """

    example: ClassVar[Mapping[str, Any]] = {"path": sample("alpaca.json")}

    def __init__(
        self,
        path: str | list[str] | dict[str, str | list[str]],
        val_fraction: float = 0.0,
        test_fraction: float = 0.0,
        input_role: Literal["user", "tool"] = "user",
    ) -> None:
        super().__init__(path, val_fraction, test_fraction)
        self.input_role = input_role

    def records(self, row: Any) -> Iterator[Record]:
        """A demonstration, or one per instance."""
        fields = mapping_of(row, "a row")
        system = text_of(fields, "system", default="")
        before = [Message("system", system)] if system else []
        if is_there(fields, "history"):
            before += pairs(fields["history"], "history")
        instruction = text_of(fields, "instruction")
        instances = list_of(fields["instances"], "instances") if is_there(fields, "instances") else [fields]
        if not instances:
            raise RecordError("instances must hold at least one input and output, got none.")
        for instance in instances:
            given = mapping_of(instance, "an instance")
            asked = self._asked(instruction, text_of(given, "input", default=""))
            yield Demonstration(answered([*before, *asked], text_of(given, "output")))

    def _asked(self, instruction: str, given: str) -> list[Message]:
        if not (instruction.strip() or given.strip()):
            raise RecordError("a row must have an instruction or an input that is not empty, got neither.")
        if given.strip() and self.input_role == "tool":
            return [Message("user", instruction), Message("tool", given)]
        return [Message("user", "\n".join(part for part in (instruction, given) if part.strip()))]
