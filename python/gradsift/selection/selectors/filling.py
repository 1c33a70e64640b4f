"""Takes rows off the queues of a plan until the budget is spent."""

from __future__ import annotations

import numpy as np

from gradsift.selection.selectors.budget import Budget
from gradsift.selection.selectors.collapse import Collapse
from gradsift.selection.selectors.queues import Choice, Cursor, Plan


def fill(plan: Plan, budget: Budget, collapse: Collapse | None = None) -> tuple[Choice, int]:
    """The rows taken, in the order taken, and how many were passed over as near-duplicates of one taken before.

    A queue whose front row is taken already, or is a near-duplicate, keeps its turn and offers its next row. The first
    row that does not fit the budget ends the selection.
    """
    if collapse is None and len(plan.queues) == 1:
        return _prefix(plan, budget), 0
    cursors = [Cursor(queue) for queue in plan.queues]
    for queue, cursor in enumerate(cursors):
        plan.turn.front(queue, _front(cursor, budget))
    taken: dict[int, tuple[float, int]] = {}
    passed_over: set[int] = set()  # for good, since what is taken only grows; several queues may offer the same row
    spent = 0
    while budget.amount is None or spent < budget.amount:
        turn = plan.turn.next()
        if turn is None:
            break
        cursor = cursors[turn]
        position = int(cursor.peek()[0])
        cost = budget.cost(position)
        if position in taken or position in passed_over:
            cursor.pop()
        elif collapse is not None and not collapse.accept(position, lambda n: _upcoming(cursors, n)):
            passed_over.add(position)
            cursor.pop()
        elif budget.amount is not None and taken and spent + cost > budget.amount:
            break
        else:
            taken[position] = cursor.pop()
            spent += cost
            plan.turn.took(turn, cost)
        plan.turn.front(turn, _front(cursor, budget))
    choice = Choice(
        np.fromiter(taken, np.int64, len(taken)),
        np.array([score for score, _ in taken.values()], np.float32),
        np.array([column for _, column in taken.values()], np.int32),
    )
    return choice, len(passed_over)


def _prefix(plan: Plan, budget: Budget) -> Choice:
    """A single queue needs no loop over rows."""
    queue = plan.queues[0]
    wanted = len(queue) if budget.amount is None else min(len(queue), budget.amount)
    choice = queue.first(wanted)
    return choice[: budget.prefix(choice.positions)]


def _front(cursor: Cursor, budget: Budget) -> int | None:
    positions = cursor.peek()
    return budget.cost(int(positions[0])) if len(positions) else None


def _upcoming(cursors: list[Cursor], n: int) -> list[int]:
    """Some n rows that come next, each queue's in equal number."""
    each = max(1, n // len(cursors))
    return list(dict.fromkeys(int(p) for cursor in cursors for p in cursor.peek(each)))[:n]
