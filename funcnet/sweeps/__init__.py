"""Many runs at once: which of them share a program, and how many of them fit."""

from funcnet.sweeps.groups import Group, Varied, group_members, member, share_counters
from funcnet.sweeps.padded import resume_padded, run_padded
from funcnet.sweeps.planner import Plan, plan, sweep

__all__ = [
    "Group",
    "Plan",
    "Varied",
    "group_members",
    "member",
    "plan",
    "resume_padded",
    "run_padded",
    "share_counters",
    "sweep",
]
