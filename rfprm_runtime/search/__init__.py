"""Guided search at test time: a policy proposes steps, and a PRM says which ones to continue."""

from rfprm_runtime.search.budget import Budget, Spent
from rfprm_runtime.search.proposals import Proposal, Proposer, ProposerError, Request
from rfprm_runtime.search.searcher import Searcher, SearchResult
from rfprm_runtime.search.strategies import (
    BeamSearch,
    BestFirstSearch,
    BestOfN,
    Choice,
    DiverseTreeSearch,
    Strategy,
)
from rfprm_runtime.search.tree import Node, SearchTree

__all__ = [
    "BeamSearch",
    "BestFirstSearch",
    "BestOfN",
    "Budget",
    "Choice",
    "DiverseTreeSearch",
    "Node",
    "Proposal",
    "Proposer",
    "ProposerError",
    "Request",
    "SearchResult",
    "SearchTree",
    "Searcher",
    "Spent",
    "Strategy",
]
