"""Environments: N copies of any Gymnasium environment with discrete actions, behind one class.

Every vector environment used here resets in gymnasium's mode NEXT_STEP: the step that ends an
episode returns its true last observation, and the step after it ignores the action and returns the
first observation of the next. An environment that cannot do that is refused, not guessed at.
"""

from __future__ import annotations

import importlib
import os
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv
from gymnasium.wrappers import AddRenderObservation, FlattenObservation

from actors.preprocessing import preprocess_picture
from common.config_sections import EnvConfig
from common.config_text import suggest
from common.errors import EnvironmentFailedError, UserError
from common.seeding import Role, integer_seeds, seed_sequence
from common.types import Array, EnvironmentSpec, FrameSpec, TimeStep

MAX_VECTOR = 1 << 20


class Environment:
    """N copies stepped together; frames out, agent's action numbers in."""

    def __init__(
        self,
        vector: VectorEnv[Any, Any, Any],
        spec: EnvironmentSpec,
        to_frames: Callable[[Array], Array],
        first_action: int,
        frames_per_step: int,
    ) -> None:
        """Wrap a gymnasium vector environment.

        Args:
            vector: in autoreset mode NEXT_STEP.
            spec: what comes out.
            to_frames: batch of observations → `[N, *frame]`.
            first_action: number of the environment's first action (Discrete's `start`).
            frames_per_step: emulator frames per env step.

        Raises:
            UserError: another autoreset mode.
        """
        mode = vector.metadata.get("autoreset_mode")
        if mode is not AutoresetMode.NEXT_STEP:
            raise UserError(
                f"{vector}: autoreset mode is {mode}; raydqn needs {AutoresetMode.NEXT_STEP}"
            )
        self.spec = spec
        self.num_envs = vector.num_envs
        self.frames_per_step = frames_per_step
        self._vector = vector
        self._to_frames = to_frames
        self._first_action = first_action
        self._done: Array = np.zeros(self.num_envs, bool)
        self._lives: Array = np.zeros(self.num_envs, np.int64)

    def reset(self, seed: int | None = None) -> Array:
        """Begin an episode in every copy; returns the first frames, `[N, *frame]`."""
        with _reporting(self._name, "reset"):
            observation, info = self._vector.reset(seed=seed)
        self._done[:] = False
        self._lives = self._lives_in(info)
        return self._frames(observation)

    def step(self, actions: Array) -> TimeStep:
        """Apply one action (0 … A−1) to each copy, `[N]` int."""
        first = self._done
        with _reporting(self._name, "step"):
            observation, reward, terminated, truncated, info = self._vector.step(
                actions + self._first_action
            )
        self._done = np.asarray(terminated | truncated, bool)
        lives = self._lives_in(info)
        lost = (lives < self._lives) & ~first & ~self._done
        self._lives = lives
        return TimeStep(
            observation=self._frames(observation),
            reward=np.asarray(reward, np.float32),
            terminated=np.asarray(terminated, bool),
            truncated=np.asarray(truncated, bool),
            life_lost=lost,
            first=first,
        )

    def render(self) -> list[Array]:
        """One `[H, W, 3]` uint8 picture of each copy, if the environment renders."""
        with _reporting(self._name, "render"):
            pictures = self._vector.render()
        if pictures is None:
            raise UserError(f"{self._vector}: renders no pictures")
        return [np.asarray(picture) for picture in pictures]

    def close(self) -> None:
        """Free what the copies hold."""
        with _reporting(self._name, "close"):
            self._vector.close()

    @property
    def _name(self) -> str:
        return str(self.spec.protocol["env"])

    def _frames(self, observation: Array) -> Array:
        """Copied: an environment may write its next observation into the same memory."""
        frames = self._to_frames(observation)
        return frames.copy() if np.may_share_memory(frames, observation) else frames

    def _lives_in(self, info: dict[str, Any]) -> Array:
        lives = info.get("lives")
        return np.zeros(self.num_envs, np.int64) if lives is None else np.array(lives, np.int64)


@contextmanager
def _reporting(env_id: str, method: str) -> Iterator[None]:
    """Whatever the environment raises comes out in one line that says where."""
    try:
        yield
    except (UserError, EnvironmentFailedError):
        raise
    except Exception as error:
        # Our own lines say nothing of the cause, and gymnasium's only where there are no others.
        frames = [
            frame
            for frame in traceback.extract_tb(error.__traceback__)
            if Path(frame.filename).parent != Path(__file__).parent
        ]
        own = [f for f in frames if f"{os.sep}gymnasium{os.sep}" not in f.filename] or frames
        place = ""
        if own:
            place = f" ({Path(own[-1].filename).name}, line {own[-1].lineno}, in {own[-1].name})"
        raise EnvironmentFailedError(
            f"env.id={env_id}: {method}() raised {type(error).__name__}: "
            f"{_first_line(error)}{place}",
            "".join(traceback.format_list(own)),
        ) from error


def make_environment(config: EnvConfig, copies: int, render: bool = False) -> Environment:
    """N copies of the environment that the configuration names.

    Args:
        config: which environment, and what to make of its observations.
        copies: N.
        render: ask for pictures (`Environment.render`).

    Raises:
        UserError: unknown id, a constructor that raises, actions that are not discrete,
            observations that no vector or picture can be made of.
        EnvironmentFailedError: another method raised, where it had to be called to see.
    """
    if _is_atari(config.id):
        return _make_atari(config, copies)
    return _make_gymnasium(config, copies, render)


def environment_spec(config: EnvConfig, seed: int = 0) -> EnvironmentSpec:
    """The spec alone: makes one copy, tries it, and throws it away.

    Args:
        config: which environment.
        seed: of the run; the copy begins as the first one of the first actor will.

    Raises:
        UserError: as `make_environment`; or the first `reset` or `step`, or `close`, raises.
    """
    (env_seed,) = integer_seeds(seed_sequence(seed, Role.ACTOR), 1)
    try:
        environment = make_environment(config, 1)
        try:
            environment.reset(env_seed)
            environment.step(np.zeros(1, np.int64))
        except EnvironmentFailedError:
            with suppress(EnvironmentFailedError):  # what was raised first is what counts
                environment.close()
            raise
        environment.close()
    except EnvironmentFailedError as error:
        raise UserError(str(error)) from error
    return environment.spec


def _is_atari(env_id: str) -> bool:
    return env_id.startswith("ALE/")


def _make_gymnasium(config: EnvConfig, copies: int, render: bool) -> Environment:
    spec = _find(config.id)
    probe = _make_single(spec, config, render)
    action_space = probe.action_space
    if not isinstance(action_space, gym.spaces.Discrete):
        with _reporting(config.id, "close"):
            probe.close()
        raise UserError(
            f"env.id={config.id}: actions are {type(action_space).__name__}, but DQN needs Discrete"
        )
    plain_state = config.observation == "state" and _is_plain_vector(probe.observation_space)
    vector: VectorEnv[Any, Any, Any] | None = None
    if plain_state:
        vector = _fast_vector(spec, config, copies, render)
    if vector is not None:
        space = vector.single_observation_space
        with _reporting(config.id, "close"):
            probe.close()
    else:
        probe = _wrap(probe, config)
        space = probe.observation_space
        members = [probe] + [
            _wrap(_make_single(spec, config, render), config) for _ in range(copies - 1)
        ]
        vector = SyncVectorEnv(
            [partial(_give, member) for member in members],
            autoreset_mode=AutoresetMode.NEXT_STEP,
        )
    assert isinstance(space, gym.spaces.Box)
    frame, to_frames = _frames_of(space, config)
    refuse_unused_keys(config, frame)
    protocol = {"env": config.id, "observation": config.observation, "stack": config.stack}
    if config.kwargs:
        protocol["kwargs"] = config.kwargs
    if config.observation == "state" and not plain_state and not frame.is_picture:
        protocol["observation"] = f"{_space_name(probe.unwrapped.observation_space)}, flattened"
    if config.observation == "pixels":
        protocol["rendered"] = f"{config.render_width or '–'}×{config.render_height or '–'}"
    if frame.is_picture and frame.scale != 1.0:
        protocol["picture"] = (
            f"{config.width}×{config.height} {'grey' if config.grey else 'RGB'}"
            + (f", crop {list(config.crop)}" if config.crop else "")
            + (", inverted" if config.invert else "")
        )
    return Environment(
        vector,
        EnvironmentSpec(frame, config.stack, int(action_space.n), protocol),
        to_frames,
        int(action_space.start),
        frames_per_step=1,
    )


ATARI_KEYS = ("sticky_actions", "frame_skip", "noop_max", "max_episode_frames")
PICTURE_KEYS = ("crop", "grey", "invert", "width", "height")
RENDER_KEYS = ("render_width", "render_height")


def refuse_unused_keys(config: EnvConfig, frame: FrameSpec) -> None:
    """A key that was changed but has no effect here would look obeyed.

    Raises:
        UserError: names the key and what has it.
    """
    unused = dict.fromkeys(ATARI_KEYS, "an Atari game (ALE/…)")
    if config.observation != "pixels":
        unused |= dict.fromkeys(RENDER_KEYS, "env.observation=pixels")
    if not frame.is_picture or frame.scale == 1.0:  # vectors, and MinAtar's binary planes
        unused |= dict.fromkeys(PICTURE_KEYS, "an observation of pictures")
    for key, needs in unused.items():
        value = getattr(config, key)
        if value != EnvConfig.model_fields[key].default:
            raise UserError(f"env.{key}={value}: has no effect on {config.id}, it needs {needs}")


def _find(env_id: str) -> gym.envs.registration.EnvSpec:
    """The registered environment, importing `module` of "module:Id" first."""
    module, _, name = env_id.rpartition(":")
    if module:
        try:
            importlib.import_module(module)
        except Exception as error:  # somebody's module may raise anything when imported
            raise UserError(
                f"env.id={env_id}: module {module} cannot be imported "
                f"({type(error).__name__}: {_first_line(error)})"
            ) from error
    if name.startswith("MinAtar/"):
        _import_minatar(env_id)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # "out of date" advice: the id was chosen on purpose
            return gym.spec(name)
    except gym.error.Error:
        known = [  # of a module that was named, only what it brought
            known_id
            for known_id, known_spec in gym.registry.items()
            if not module or str(known_spec.entry_point).startswith(module.partition(".")[0])
        ]
        raise UserError(
            f"env.id={env_id}: no such environment is registered{suggest(name, known)}"
        ) from None


def _import_minatar(env_id: str) -> None:
    try:
        from minatar.gym import register_envs
    except ImportError:
        raise UserError(
            f"env.id={env_id}: needs the package minatar (pip install minatar)"
        ) from None
    if "MinAtar/Breakout-v1" not in gym.registry:
        register_envs()


def _make_single(
    spec: gym.envs.registration.EnvSpec, config: EnvConfig, render: bool
) -> gym.Env[Any, Any]:
    try:
        return gym.make(spec, **_render_kwargs(config, render), **config.kwargs)
    except Exception as error:  # an environment's constructor may raise anything
        raise _cannot_be_made(config, error) from error


def _cannot_be_made(config: EnvConfig, error: Exception) -> UserError:
    return UserError(
        f"env.id={config.id}: cannot be made ({type(error).__name__}: {_first_line(error)})"
    )


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [""])[0]


def _render_kwargs(config: EnvConfig, render: bool) -> dict[str, Any]:
    if not render and config.observation != "pixels":
        return {}
    # pygame would look for a screen and complain; a driver that was chosen is left alone.
    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
    return {"render_mode": "rgb_array"}


def _space_name(space: gym.Space[Any]) -> str:
    return type(space).__name__ + (str(list(space.shape)) if space.shape else "")


def _is_plain_vector(space: gym.Space[Any]) -> bool:
    return isinstance(space, gym.spaces.Box) and len(space.shape) == 1


def _fast_vector(
    spec: gym.envs.registration.EnvSpec, config: EnvConfig, copies: int, render: bool
) -> VectorEnv[Any, Any, Any] | None:
    """The environment's own vectorised version, if it has a usable one."""
    if spec.vector_entry_point is None or spec.additional_wrappers:
        return None
    try:
        vector = gym.make_vec(
            spec,
            num_envs=copies,
            vectorization_mode="vector_entry_point",
            **_render_kwargs(config, render),
            **config.kwargs,
        )
    except TypeError:  # takes other arguments than the single version
        return None
    except Exception as error:
        raise _cannot_be_made(config, error) from error
    if vector.metadata.get("autoreset_mode") is not AutoresetMode.NEXT_STEP:
        with _reporting(config.id, "close"):
            vector.close()
        return None
    return vector


def _wrap(env: gym.Env[Any, Any], config: EnvConfig) -> gym.Env[Any, Any]:
    """Pictures through Pillow, everything else flattened to a vector."""
    if config.observation == "pixels":
        for attribute, size in (
            ("screen_width", config.render_width),
            ("screen_height", config.render_height),
        ):
            if size is None:
                continue
            if not hasattr(env.unwrapped, attribute):
                raise UserError(
                    f"env.{attribute.replace('screen', 'render')}={size}: {config.id} has no "
                    "screen size to set; leave the key out"
                )
            setattr(env.unwrapped, attribute, size)
        with _reporting(config.id, "reset"):
            env.reset(seed=0)  # a picture can be rendered only of something
        env = _rendered(env, config)
    space = env.observation_space
    if _is_picture(space):
        return PictureObservation(env, config)
    if isinstance(space, gym.spaces.Box) and _is_grid(space):
        return env
    if isinstance(space, gym.spaces.Box) and space.dtype == np.uint8 and len(space.shape) == 3:
        raise UserError(
            f"env.id={config.id}: pictures of shape {space.shape}; must be [H, W], [H, W, 1] or "
            "[H, W, 3], one at a time (env.stack stacks them)"
        )
    if not (isinstance(space, gym.spaces.Box) and len(space.shape) == 1):
        try:
            flat = gym.spaces.utils.flatten_space(space)
        except NotImplementedError:
            flat = None
        if not isinstance(flat, gym.spaces.Box):
            raise UserError(
                f"env.id={config.id}: observations are {type(space).__name__}, which Gymnasium "
                "cannot flatten to a vector; wrap the environment so that they are a Box"
            )
        env = FlattenObservation(env)
    shape = env.observation_space.shape
    assert shape is not None
    if shape[0] > MAX_VECTOR:
        raise UserError(
            f"env.id={config.id}: observations flatten to {shape[0]:,} numbers; "
            f"at most {MAX_VECTOR:,}"
        )
    return env


def _rendered(env: gym.Env[Any, Any], config: EnvConfig) -> gym.Env[Any, Any]:
    """Pictures as observations.

    Raises:
        UserError: it cannot be rendered, or comes out as something else than 8-bit pictures.
    """
    try:
        picture: Any = env.render()
        rendered = AddRenderObservation(env, render_only=True)
    except Exception as error:  # a renderer may raise anything
        raise UserError(
            f"env.observation=pixels: {config.id} cannot be rendered "
            f"({type(error).__name__}: {_first_line(error)})"
        ) from error
    is_array = isinstance(picture, np.ndarray)
    if not is_array or picture.dtype != np.uint8 or picture.shape[2:] not in ((1,), (3,)):
        kind = f"{picture.dtype} {picture.shape}" if is_array else type(picture).__name__
        raise UserError(
            f"env.observation=pixels: {config.id} renders {kind}, not 8-bit pictures in grey "
            "or RGB; use env.observation=state"
        )
    return rendered


def _is_picture(space: gym.Space[Any]) -> bool:
    """8-bit, grey or RGB."""
    return (
        isinstance(space, gym.spaces.Box)
        and space.dtype == np.uint8
        and (len(space.shape) == 2 or (len(space.shape) == 3 and space.shape[2] in (1, 3)))
    )


def _is_grid(space: gym.spaces.Box) -> bool:
    """Binary planes `[H, W, C]`, as MinAtar's."""
    return space.dtype == np.bool_ and len(space.shape) == 3


def _give(member: gym.Env[Any, Any]) -> gym.Env[Any, Any]:
    return member


class PictureObservation(gym.ObservationWrapper[Any, Any, Any]):
    """`preprocess_picture` as a wrapper: `[H, W, 3]` in, `[C, height, width]` out."""

    def __init__(self, env: gym.Env[Any, Any], config: EnvConfig) -> None:
        """Size, colour and crop are the configuration's."""
        super().__init__(env)
        self._config = config
        channels = 1 if config.grey else 3
        self.observation_space = gym.spaces.Box(
            0, 255, (channels, config.height, config.width), np.uint8
        )

    def observation(self, observation: Any) -> Any:
        """One frame."""
        c = self._config
        return preprocess_picture(observation, c.height, c.width, c.grey, c.crop, c.invert)


def _frames_of(
    space: gym.spaces.Box, config: EnvConfig
) -> tuple[FrameSpec, Callable[[Array], Array]]:
    """What a frame of this space looks like, and how a batch of observations becomes frames."""
    if space.dtype == np.uint8 and len(space.shape) == 3:
        return FrameSpec(space.shape, "uint8", 1 / 255), np.asarray
    if _is_grid(space):
        height, width, channels = space.shape
        spec = FrameSpec((channels, height, width), "uint8", 1.0)
        return spec, lambda batch: batch.transpose(0, 3, 1, 2).astype(np.uint8)
    scale = 1 / 255 if space.dtype == np.uint8 else 1.0
    return (
        FrameSpec(space.shape, "float32", scale),
        lambda batch: np.asarray(batch, np.float32),
    )


def _make_atari(config: EnvConfig, copies: int) -> Environment:
    """ale-py's own vector environment: C++ preprocessing as in Mnih et al. 2015, stacks by us."""
    if config.observation == "pixels":
        raise UserError('env.observation=pixels: an Atari game returns its screen as its "state"')
    for key, value, default in (("crop", config.crop, None), ("invert", config.invert, False)):
        if value != default:
            raise UserError(f"env.{key}={value}: ale-py makes the pictures of {config.id} itself")
    try:
        import ale_py
        from ale_py.vector_env import AtariVectorEnv
    except ImportError:
        raise UserError(f"env.id={config.id}: needs ale-py (pip install ale-py)") from None
    gym.register_envs(ale_py)
    settings = _find(config.id).kwargs
    game = settings["game"]
    if settings.get("obs_type") == "ram":
        raise UserError(f"env.id={config.id}: must show pictures, not -ram")
    try:
        vector = AtariVectorEnv(
            game,
            num_envs=copies,
            num_threads=1,  # one actor, one core: more actors use more
            max_num_frames_per_episode=config.max_episode_frames,
            repeat_action_probability=config.sticky_actions,
            img_height=config.height,
            img_width=config.width,
            grayscale=config.grey,
            stack_num=1,
            frameskip=config.frame_skip,
            noop_max=config.noop_max,
            episodic_life=False,
            reward_clipping=False,
            use_fire_reset=False,
            autoreset_mode=AutoresetMode.NEXT_STEP,
            **config.kwargs,
        )
    except Exception as error:  # ale-py raises several kinds
        raise _cannot_be_made(config, error) from error
    space = vector.single_observation_space
    shape = tuple(space.shape)
    if len(shape) == 4:  # colour: [1, H, W, 3]
        shape = (3, shape[1], shape[2])

    def to_frames(batch: Array) -> Array:
        return batch if batch.ndim == 4 else batch[:, 0].transpose(0, 3, 1, 2)

    protocol = {
        "env": config.id,
        "sticky_actions": config.sticky_actions,
        "frame_skip": config.frame_skip,
        "stack": config.stack,
        "noop_max": config.noop_max,
        "max_episode_frames": config.max_episode_frames,
        "life_loss_ends": config.life_loss_ends,
        "reward_clip": config.reward_clip,
        "picture": f"{config.width}×{config.height} {'grey' if config.grey else 'RGB'}",
        "actions": int(vector.single_action_space.n),
    }
    return Environment(
        vector,
        EnvironmentSpec(
            FrameSpec(shape, "uint8", 1 / 255),
            config.stack,
            int(vector.single_action_space.n),
            protocol,
        ),
        to_frames,
        first_action=0,
        frames_per_step=config.frame_skip,
    )
