import asyncio
import multiprocessing
import threading
import time

import pytest
from lightning_rlhf_compat.calling import Parameters, outcomes


def test_parameters_tell_what_a_function_takes():
    def function(a, b=1, *, c, **rest): ...

    parameters = Parameters.of(function)
    assert parameters == Parameters(("a", "b"), ("a", "b", "c"), ("a", "c"), False, True)
    assert parameters.missing(["a"]) == ["c"]
    assert parameters.accepted({"x": 1}) == {"x": 1}
    assert Parameters.of(lambda a: a).accepted({"x": 1, "a": 2}) == {"a": 2}
    assert Parameters.of(lambda a, /: a).accepted({"a": 2}) == {}
    assert Parameters.of(min).takes_any_name


def test_calls_keep_their_order_and_exceptions_their_place():
    async def slow(value):
        await asyncio.sleep(0.01 if value == 1 else 0)
        return value

    async def broken():
        raise KeyError("b")

    found = outcomes([lambda: slow(1), lambda: 2, broken, lambda: slow(3), lambda: 1 / 0])
    assert [found[0], found[1], found[3]] == [1, 2, 3]
    assert isinstance(found[2], KeyError)
    assert isinstance(found[4], ZeroDivisionError)


def test_async_calls_run_at_the_same_time():
    async def wait():
        await asyncio.sleep(0.2)

    start = time.monotonic()
    outcomes([wait] * 10)
    assert time.monotonic() - start < 1


def test_async_calls_share_one_loop_that_is_not_the_callers():
    async def loop():
        return asyncio.get_running_loop(), threading.get_ident()

    async def in_a_notebook():
        return outcomes([loop])[0]

    first, second = outcomes([loop])[0], asyncio.run(in_a_notebook())
    assert first == second
    assert first[1] != threading.get_ident()


def _in_a_child(queue):
    async def answer():
        return "answered"

    queue.put(outcomes([answer]))


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="needs fork")
def test_a_forked_child_has_a_loop_of_its_own():
    async def nothing(): ...

    outcomes([nothing])
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=_in_a_child, args=(queue,))
    child.start()
    try:
        assert queue.get(timeout=20) == ["answered"]
    finally:
        child.kill()
        child.join()
