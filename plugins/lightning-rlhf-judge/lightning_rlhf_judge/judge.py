"""What judges share: asking about every response at once, reading the verdicts, keeping and counting them."""

import asyncio
import re
import sys
import weakref
from abc import abstractmethod
from collections.abc import Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

from lightning_rlhf import RewardFunction
from lightning_rlhf.errors import ConfigError, ScorerError
from lightning_rlhf_judge.cache import VerdictCache, content_key
from lightning_rlhf_judge.endpoint import Connection, Endpoint, Reply
from lightning_rlhf_judge.template import QuestionTemplate, shortened, spoken
from lightning_rlhf_judge.usage import Usage
from lightning_rlhf_judge.verdicts import VerdictForm

__all__ = ["Judge", "Question"]

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Question:
    """What the judge is asked about one response."""

    text: str
    prompt: str
    """As rendered for the policy; with the response, it tells a person in an error which row was asked about."""
    response: str
    fence: str
    """A number of twelve hexadecimal digits that depends on all that is asked about: no part of it can hold it."""
    imitated: frozenset[float] = frozenset()
    """The verdicts that could be read out of what is asked about, if the judge quoted it."""


class Judge(RewardFunction):
    """Base of the judges.

    Args:
        model: the judge's name at the endpoint.
        form: of its verdict.
        choices: what its verdict may be, in words.
        template: what it is asked.
        endpoint: where.
        max_verdict_length: the most tokens of a verdict.
        body: further fields of the request; None takes one out.
        concurrency: questions at a time.
        cache: file of the verdicts; None: none.
        usage: counts what is asked.

    Raises:
        ConfigError: an argument cannot work.
    """

    def __init__(
        self,
        model: str,
        *,
        form: VerdictForm,
        choices: str,
        template: QuestionTemplate,
        endpoint: Endpoint,
        max_verdict_length: int,
        body: Mapping[str, Any] | None,
        concurrency: int,
        cache: str | None,
        usage: Usage,
    ) -> None:
        if not model.strip():
            raise ConfigError("model must be the judge's name at the endpoint, got an empty one.")
        for name, number in (("concurrency", concurrency), ("max_verdict_length", max_verdict_length)):
            if number < 1:
                raise ConfigError(f"{name} must be at least 1, got {number}.")
        self.model = model
        self.form = form
        self.choices = choices
        self.template = template
        self.endpoint = endpoint
        self.concurrency = concurrency
        self.cache = None if cache is None else VerdictCache(cache)
        self.usage = usage
        """What was asked so far, and what it cost."""
        fields = {"model": model, "temperature": 0, "max_tokens": max_verdict_length, **(body or {})}
        if {"messages", "stream", "n"} & fields.keys():
            raise ConfigError("body must leave messages, stream and n alone, got one of them.")
        self._body = {name: value for name, value in fields.items() if value is not None}
        self._reports = False

    @abstractmethod
    def questions(self, values: Mapping[str, Any], prompt: str, response: str) -> list[Question]:
        """What is asked about one response: one question or more.

        Args:
            values: what the template's names may stand for.
            prompt: as rendered for the policy.
            response: decoded.
        """

    @abstractmethod
    def number(self, value: re.Match[str]) -> float | None:
        """The number that a verdict stands for; None where it stands for none."""

    @abstractmethod
    def score(self, numbers: Sequence[float]) -> float:
        """The score of a response, from the numbers of its questions in their order."""

    def __call__(self, prompts: Sequence[str], responses: Sequence[str], **columns: Sequence[Any]) -> list[float]:
        """One score per response.

        Raises:
            ScorerError: the judge cannot be reached, refuses, or says what cannot be read, also when asked again; or a
                column that the template names is missing.
        """
        asked = [
            self.questions(self._values(row, prompts[row], responses[row], columns), prompts[row], responses[row])
            for row in range(len(responses))
        ]
        numbers = self._numbers({question.text: question for questions in asked for question in questions})
        return [self.score([numbers[question.text] for question in questions]) for questions in asked]

    def _values(self, row: int, prompt: str, response: str, columns: Mapping[str, Sequence[Any]]) -> dict[str, Any]:
        values = {name: column[row] for name, column in columns.items()}
        messages = values.get("messages")
        return {**values, "prompt": prompt, "response": response, "dialogue": spoken(messages) if messages else prompt}

    def require(self, name: str, values: Mapping[str, Any], prompt: str) -> Any:
        """A value of the row.

        Raises:
            ScorerError: the row does not have it.
        """
        if values.get(name) is None:
            raise ScorerError(
                f"the judge {self.model!r} must get the column {name!r}, got {', '.join(sorted(values))} for the "
                f"prompt {shortened(prompt)}. Add the field to the rows, or take it out of the judge's arguments."
            )
        return values[name]

    def question(self, values: Mapping[str, Any], prompt: str, response: str) -> Question:
        """The template with the row's values, which are fenced off from the judge's own words.

        Where they hold what could pass for a verdict, the judge is asked to write the fence's number into its own.
        """
        material = {name: str(self.require(name, values, prompt)) for name in self.template.names - {"fence"}}
        fence = content_key(material)[:12]
        text = self.template.fill({**material, "fence": fence})
        numbers = (self.number(value) for part in material.values() for value in self.form.imitations(part))
        imitated = frozenset(number for number in numbers if number is not None)
        if imitated:
            text = (
                f"{text.rstrip()}\n{self._line(fence)} (with this number, which tells your verdict from quotations)\n"
            )
        return Question(text, prompt, response, fence, imitated)

    def read(self, verdict: str, question: Question | None = None) -> float | None:
        """The number in a verdict; None where there is none, more than one, or one that may be a quotation."""
        found = self.form.find(verdict, None if question is None else question.fence)
        number = None if found is None else self.number(found.value)
        if found is not None and question is not None and not found.is_coded and number in question.imitated:
            return None
        return number

    @property
    def reminder(self) -> str:
        """What the judge is told when its verdict cannot be read."""
        return f"That was no verdict. End with one line, and no other, of exactly this form:\n{self._line()}"

    def _reminder(self, question: Question) -> str:
        if not question.imitated:
            return self.reminder
        return self.reminder.replace(self._line(), self._line(question.fence))

    def _line(self, fence: str | None = None) -> str:
        return f"{self.form.word.capitalize()}{f' {fence}' if fence else ''}: <{self.choices}>"

    def _numbers(self, questions: Mapping[str, Question]) -> dict[str, float]:
        """The number of each question, by its text: out of the cache, or asked for."""
        self._report_at_the_end()
        keys = {text: content_key({"base_url": self.endpoint.base_url, **self._request(text)}) for text in questions}
        known = {} if self.cache is None else self.cache.get(keys.values())
        numbers = {}
        for text, key in keys.items():
            number = self.read(known[key], questions[text]) if key in known else None
            if number is not None:
                numbers[text] = number
        self.usage.count_cached(len(numbers))
        missing = [question for text, question in questions.items() if text not in numbers]
        if missing:
            numbers |= _result(self._asked(missing, keys))
        return numbers

    async def _asked(self, questions: Sequence[Question], keys: Mapping[str, str]) -> dict[str, float]:
        numbers = {}
        async with self.endpoint.connect(self.concurrency) as connection:
            waiting = [asyncio.create_task(self._ask(connection, question)) for question in questions]
            try:
                for done in asyncio.as_completed(waiting):
                    question, verdict, number = await done
                    if self.cache is not None:
                        # At once: what was paid for outlives an interruption.
                        self.cache.put(keys[question.text], verdict)
                    numbers[question.text] = number
            finally:
                for task in waiting:
                    task.cancel()
                await asyncio.gather(*waiting, return_exceptions=True)
        return numbers

    async def _ask(self, connection: Connection, question: Question) -> tuple[Question, str, float]:
        """The question with a verdict that can be read, and its number. One that cannot is answered with a reminder."""
        request = self._request(question.text)
        reply = Reply("", None, None)
        for _ in range(self.endpoint.max_attempts):
            reply = await connection.ask(request)
            self.usage.count_request(reply.usage)
            number = self.read(reply.text, question)
            if number is not None:
                return question, reply.text, number
            again = [
                {"role": "assistant", "content": reply.text},
                {"role": "user", "content": self._reminder(question)},
            ]
            request = {**request, "messages": [*self._request(question.text)["messages"], *again]}
        hint = "Choose a judge that follows the template, or reword the template."
        if reply.finish_reason == "length":
            hint = "Its verdict was cut off: raise max_verdict_length."
        raise ScorerError(
            f"the judge {self.model!r} must give a verdict that can be read, got {shortened(reply.text)} when asked "
            f"{self.endpoint.max_attempts} times. {hint} prompt: {shortened(question.prompt)}, response: "
            f"{shortened(question.response)}"
        )

    def _request(self, text: str) -> dict[str, Any]:
        return {**self._body, "messages": [{"role": "user", "content": text}]}

    def _report_at_the_end(self) -> None:
        if not self._reports:
            self._reports = True
            weakref.finalize(self, _report, self.model, self.usage)

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_reports": False}  # each copy reports for itself


def _result(coroutine: Coroutine[Any, Any, Result]) -> Result:
    """What the coroutine returns, in a notebook too, whose own loop is running already."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(coroutine)
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, coroutine).result()


def _report(model: str, usage: Usage) -> None:
    if usage.num_requests or usage.num_cached:
        print(f"judge {model}: {usage}", file=sys.stderr)
