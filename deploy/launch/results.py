"""Results of the Python API."""

from __future__ import annotations

from typing import TypedDict


class Summary(TypedDict):
    """Result of a run, also in `summary.json` of its folder.

    Attributes:
        run: the run folder.
        env_steps: environment steps of all actors.
        frames: emulator frames; the environment steps where a step shows one frame.
        transitions: transitions inserted into the replay memory.
        learner_steps: gradient steps.
        device: of the learner, with the build of torch; None before its first report.
        episodes: finished episodes of the actors.
        wall_s: seconds, the attempts before a resume included.
        acting_after_s: seconds from the start of the command to the first environment step.
        env_steps_per_s: mean rate while the actors were acting.
        learner_steps_per_s: mean rate while the learner was learning.
        samples_per_insert: how often a transition was sampled on average.
        score: mean return of the last evaluation, None before the first.
        score_episodes: episodes of that evaluation, 0 if it took place before the resume.
        score_epsilon: probability of a random action in that evaluation.
        best_score: score of the best evaluation, None before the first.
        restarts: parts that were replaced.
        dropped: transitions lost because their shard had died.
        weights_sha256: hash of the last weights; equal runs have equal hashes.
        protocol: what the score depends on, such as the version of the environment.
        stop_reason: a key of `stop`, such as `score`, or `interrupted` or `terminated`.
    """

    run: str
    env_steps: int
    frames: int
    transitions: int
    learner_steps: int
    device: str | None
    episodes: int
    wall_s: float
    acting_after_s: float | None
    env_steps_per_s: float
    learner_steps_per_s: float
    samples_per_insert: float
    score: float | None
    score_episodes: int
    score_epsilon: float
    best_score: float | None
    restarts: int
    dropped: int
    weights_sha256: str
    protocol: dict[str, object]
    stop_reason: str


class Evaluation(TypedDict):
    """Result of an evaluation.

    Attributes:
        run: the run folder.
        weights: which weights played.
        learner_steps: learner step of these weights.
        episodes: episodes played.
        score: mean return, of raw rewards without discount.
        std: standard deviation over episodes of the returns (divided by their number).
        std_over: `episodes`; that of a report is over seeds.
        median: median return.
        iqm: interquartile mean: of the middle half of the returns.
        interval: bootstrap interval of the mean over episodes of this policy; None: one episode.
        confidence: probability that the interval is made for.
        min: lowest return.
        max: highest return.
        mean_length: mean length of an episode in environment steps.
        min_length: shortest length.
        max_length: greatest length.
        ended: number of episodes by how they ended: `terminated`, `truncated`, `cut off`.
        epsilon: probability of a random action.
        copies: copies of the environment that played.
        run_seed: seed of the run.
        env_seed: seed of the copies' first reset; the run itself used other ones.
        protocol: what the score depends on, such as the version of the environment.
        protocol_in_words: sentences about it.
        returns: return of each episode, in the order in which they ended.
        lengths: length of each.
        copy_of_episode: number of the copy that played each.
        endings: how each ended.
        wall_s: seconds.
    """

    run: str
    weights: str
    learner_steps: int
    episodes: int
    score: float
    std: float
    std_over: str
    median: float
    iqm: float
    interval: list[float] | None
    confidence: float
    min: float
    max: float
    mean_length: float
    min_length: int
    max_length: int
    ended: dict[str, int]
    epsilon: float
    copies: int
    run_seed: int
    env_seed: int
    protocol: dict[str, object]
    protocol_in_words: list[str]
    returns: list[float]
    lengths: list[int]
    copy_of_episode: list[int]
    endings: list[str]
    wall_s: float
