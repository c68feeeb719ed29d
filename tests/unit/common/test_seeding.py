import itertools

import numpy as np

from common.seeding import Role, integer_seeds, seed_sequence


def first_numbers(*address):
    return tuple(np.random.default_rng(seed_sequence(*address)).integers(0, 2**63, 4).tolist())


def test_the_same_address_gives_the_same_stream():
    assert first_numbers(1, Role.ACTOR, 3, 2) == first_numbers(1, Role.ACTOR, 3, 2)


def test_every_part_of_the_address_gives_another_stream():
    # TRAPS: an actor that replaces another keeps its index and must not repeat its stream.
    addresses = list(itertools.product((0, 1, 2**40), Role, (0, 1, 2), (0, 1, 2)))
    assert len({first_numbers(*address) for address in addresses}) == len(addresses)


def test_roles_keep_their_numbers():
    # They are part of what a seed means: renumbering would silently change every old run.
    assert {role.name: int(role) for role in Role} == {
        "ACTOR": 0,
        "SHARD": 2,
        "EVALUATOR": 3,
        "NETWORK": 4,
        "SAMPLER": 5,
        "OFFLINE_EVALUATOR": 6,
        "LEARNER": 7,
    }


def test_a_stream_is_the_same_on_every_machine():
    assert integer_seeds(seed_sequence(1, Role.ACTOR, 2, 3), 3) == [
        1520148186,
        1191275971,
        809749729,
    ]


def test_integer_seeds_suit_libraries_that_take_31_bits():
    seeds = integer_seeds(seed_sequence(7, Role.ACTOR), 2000)
    assert all(type(seed) is int and 0 <= seed < 2**31 for seed in seeds)
    assert len(set(seeds)) == 2000
    assert max(seeds) > 2**30  # and not fewer bits than that


def test_more_integer_seeds_begin_with_the_fewer():
    sequence = seed_sequence(7, Role.ACTOR)
    assert integer_seeds(sequence, 5)[:3] == integer_seeds(sequence, 3)
