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
    costs = [_front(cursor, budget) for cursor in cursors]
    taken: dict[int, tuple[float, int]] = {}
    spent = passed_over = 0
    while any(cost is not None for cost in costs) and (budget.amount is None or spent < budget.amount):
        queue = plan.turn.next(costs)
        position, cost = int(cursors[queue].peek()[0]), costs[queue]
        assert cost is not None
        if position not in taken:
            if collapse is not None and not collapse.accept(position, lambda n: _upcoming(cursors, n)):
                passed_over += 1
            elif budget.amount is not None and taken and spent + cost > budget.amount:
                break
            else:
                taken[position] = cursors[queue].pop()
                spent += cost
                plan.turn.took(queue, cost)
                costs[queue] = _front(cursors[queue], budget)
                continue
        cursors[queue].pop()
        costs[queue] = _front(cursors[queue], budget)
    choice = Choice(
        np.fromiter(taken, np.int64, len(taken)),
        np.array([score for score, _ in taken.values()], np.float32),
        np.array([column for _, column in taken.values()], np.int32),
    )
    return choice, passed_over


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
