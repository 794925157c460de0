"""Each bound on a connection or a user, on both of its sides."""

from __future__ import annotations

import pytest

from attestor.api.limits import ConnectionLimits, FrameBudget, UserBudgets

LIMITS = ConnectionLimits(
    connections=5, connections_per_uid=3, new_connections_per_s=10, early_resets_per_s=4, control_frames_per_s=6
)


class TestFrameBudget:
    def test_resets_up_to_the_bound_pass_and_the_next_cuts(self):
        budget = FrameBudget(LIMITS, 0.0)
        verdicts = []
        for _ in range(5):
            budget.note_opened(0.5)
            verdicts.append(budget.note_early_reset(0.5))
        assert verdicts == [None] * 4 + ["rapid_reset"]

    def test_resets_that_are_the_smaller_part_pass(self):
        budget = FrameBudget(LIMITS, 0.0)
        for _ in range(11):
            budget.note_opened(0.5)
        assert [budget.note_early_reset(0.5) for _ in range(5)] == [None] * 5
        assert budget.note_early_reset(0.5) == "rapid_reset"

    def test_a_second_later_the_count_begins_anew(self):
        budget = FrameBudget(LIMITS, 0.0)
        for now in (0.0, 1.0, 2.0):
            for _ in range(4):
                budget.note_opened(now)
                assert budget.note_early_reset(now) is None

    def test_control_frames_are_bounded(self):
        budget = FrameBudget(LIMITS, 0.0)
        assert [budget.note_control_frame(0.9) for _ in range(7)] == [None] * 6 + ["control_flood"]
        assert budget.note_control_frame(1.9) is None


class TestUserBudgets:
    def test_a_user_may_have_so_many_connections_and_no_more(self):
        users = UserBudgets(LIMITS)
        assert [users.admit(1, 0.0) for _ in range(4)] == [None, None, None, "connections_per_uid"]
        users.release(1)
        assert users.admit(1, 0.0) is None

    def test_one_user_does_not_take_the_others_place(self):
        users = UserBudgets(LIMITS)
        for _ in range(4):
            users.admit(1, 0.0)
        assert users.admit(2, 0.0) is None

    def test_all_together_are_bounded(self):
        users = UserBudgets(LIMITS)
        assert [users.admit(uid, 0.0) for uid in range(6)] == [None] * 5 + ["connections"]

    def test_new_connections_are_paced_with_a_burst(self):
        users = UserBudgets(LIMITS)

        def churn(now: float) -> str | None:
            reason = users.admit(1, now)
            if reason is None:
                users.release(1)
            return reason

        assert [churn(0.0) for _ in range(21)] == [None] * 20 + ["new_connections_per_s"]
        assert churn(0.09) == "new_connections_per_s"
        assert churn(0.2) is None

    def test_a_flood_costs_its_user_new_connections_for_a_while(self):
        users = UserBudgets(LIMITS)
        for _ in range(3):
            users.penalise(1, 0.0)
        assert users.admit(1, 1.0) == "new_connections_per_s"
        assert users.admit(2, 1.0) is None
        assert users.admit(1, 1.2) is None

    def test_refused_connections_owe_nothing(self):
        users = UserBudgets(LIMITS)
        for _ in range(3):
            users.admit(1, 0.0)
        for _ in range(50):
            assert users.admit(1, 0.0) == "connections_per_uid"
        users.release(1)
        assert users.admit(1, 0.0) is None

    def test_users_that_went_are_forgotten(self):
        users = UserBudgets(LIMITS)
        for uid in range(100):
            assert users.admit(uid, float(uid)) is None
            users.release(uid)
        users.forget_idle(99.0)
        assert users._tokens.keys() == {99}
        users.forget_idle(100.0)
        assert not users._tokens


@pytest.mark.parametrize("field", ["connections_per_uid", "streams_per_connection", "header_list_bytes"])
def test_the_defaults_are_bounds(field):
    assert 0 < getattr(ConnectionLimits(), field) < 100_000
