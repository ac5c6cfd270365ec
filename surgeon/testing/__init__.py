"""The conformance kit: whatever a plugin offers, tried on nine families of networks.

::

    from surgeon import testing

    def test_it_keeps_the_rules():
        testing.check("my-head")

    @pytest.mark.parametrize("offer", testing.offers("my-distribution"), ids=str)
    def test_all_of_ours(offer):
        testing.check(offer)

`surgeon plugins check` runs the same. What must not enter: names of offers.
"""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from surgeon.errors import CheckError, PluginError, SurgeonError, UnknownNameError
from surgeon.plugin import hookimpl
from surgeon.plugin.manager import (
    DISTRIBUTION,
    KINDS,
    Found,
    Plugins,
    load_plugins,
    loaded_plugins,
    plain,
)
from surgeon.testing import kinds
from surgeon.testing.claims import OWN, RUNS, Claim, Ledger
from surgeon.testing.examples import examples
from surgeon.testing.networks import NETWORKS
from surgeon.testing.samples import COUNT

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Mapping, Sequence

    from surgeon.records import Case, Offer

__all__ = ["NETWORKS", "Claim", "check", "examine", "offers"]


def check(offer: str | Case | Offer | Found[Any], **given: Any) -> None:
    """Try an offer as `examine` does.

    Raises:
        CheckError: a claim does not hold; it names all of them.
    """
    failed = [claim for claim in examine(offer, **given) if not claim.passed]
    if failed:
        named = offer.offer if isinstance(offer, Found) else offer
        raise CheckError(
            "; ".join(f"{claim.name}: {claim.detail}" for claim in failed),
            where=named if isinstance(named, str) else named.name,
            remedy="docs/plugins.md says what each kind of offer must do",
        )


def examine(
    offer: str | Case | Offer | Found[Any],
    *,
    options: str = "",
    models: Sequence[str | os.PathLike[str]] | None = None,
    answers: Any = None,
    count: int | None = None,
    plugins: Plugins | None = None,
    progress: Callable[..., None] | None = None,
) -> list[Claim]:
    """Try an offer, and return what was claimed of it and whether it held.

    Args:
        offer: its name, or the offer itself, which need not be installed.
        options: settings, where it needs some: `key=value,key=value`.
        models: files to try it on, or names of `NETWORKS`; None = all nine of them, and the
            examples that the offer brings; an empty list = its examples alone.
        answers: of `count` samples, for a task that reads none of the usual answers.
        count: samples to train on; None = 48.
        plugins: loaded plugins; None loads them.
        progress: called as `progress(stage, done, total)`.

    Raises:
        UnknownNameError: there is no offer of that name.
    """
    found, plugins = _found(offer, loaded_plugins(plugins))
    text = f"{found.offer.name}:{options}" if options else found.offer.name
    ledger = Ledger()
    with tempfile.TemporaryDirectory() as folder:
        try:
            own = [] if options or models else examples(found, Path(folder))
        except SurgeonError as error:
            ledger.note("", OWN, error.message)
            return ledger.claims()
        trials = {
            f"its example {place}" if len(own) > 1 else "its example": kinds.Trial(
                found, one.model, plugins, text, place, example=one
            )
            for place, one in enumerate(own)
        }
        only_own = type(found.offer).__name__ == "Medium"
        named = [str(one) for one in (NETWORKS if models is None else models)]
        for place, name in enumerate([] if only_own else named, len(own)):
            source = NETWORKS[name]() if name in NETWORKS else name
            trials[name] = kinds.Trial(found, source, plugins, text, place, count or COUNT, answers)
        first = next(iter(trials.values()), kinds.Trial(found, "", plugins, text))
        if _tried(ledger, "", partial(kinds.once, first)):
            _each(ledger, trials, progress or (lambda *_: None))
    return ledger.claims()


def _each(ledger: Ledger, trials: Mapping[str, kinds.Trial], progress: Callable[..., None]) -> None:
    """Note what is claimed of an offer on each model, and how it refuses settings."""
    usable = None
    for place, (name, trial) in enumerate(trials.items()):
        if trial.word not in kinds.EACH:
            return
        progress(f"{trial.word} {trial.name}", place, len(trials))
        done = _tried(ledger, name, partial(kinds.EACH[trial.word], trial))
        if done:
            usable = usable or trial
        if trial.example is not None:
            ledger.note(name, OWN, None if done else ledger.refused.pop(name, "it fails"))
        if place == len(trials) - 1:
            progress(f"{trial.word} {trial.name}", len(trials), len(trials))
    if usable is None and ledger.refused:
        ledger.note("", RUNS, "; ".join(f"{m}: {w}" for m, w in ledger.refused.items()))
    elif usable is not None and usable.word in kinds.WITH_SETTINGS:
        problem = kinds.bad_options(usable)
        ledger.note("", "bad options are refused in clear words", problem)


def offers(*distributions: str, plugins: Plugins | None = None) -> list[Found[Any]]:
    """Return what distributions offer, for pytest's `parametrize`; of none named, all of them."""
    from surgeon import records

    plugins = loaded_plugins(plugins)
    wanted = {plain(name) for name in distributions}
    return [
        found
        for kind in KINDS
        for found in plugins.offers(getattr(records, kind)).values()
        if not wanted or plain(found.distribution) in wanted
    ]


def meant(name: str | None, plugins: Plugins) -> list[tuple[str, Found[Any]]]:
    """Return what a name means: offers, each with the settings that are given.

    Args:
        name: a distribution, an entry point, or an offer with or without settings; None means
            every offer of a distribution that is not ours.
        plugins: loaded plugins.

    Raises:
        PluginError: it is a plugin that is not loaded, or offers nothing that can be tried.
        UnknownNameError: it is none of these.
    """
    every = offers(plugins=plugins)
    if name is None:
        return [("", found) for found in every if plain(found.distribution) != DISTRIBUTION]
    points = {
        one.name for one in plugins.loaded if plain(name) in (one.name, plain(one.distribution))
    }
    if points:
        found = [("", one) for one in every if one.plugin in points]
        broken = [one for one in plugins.loaded if one.name in points and one.error is not None]
        if broken:
            raise broken[0].failed("loading it", broken[0].error or "")
        return found
    word, _, options = name.partition(":")
    found = [(options, one) for one in every if one.offer.name == word]
    if not found:
        known = {one.offer.name for one in every} | {one.name for one in plugins.loaded}
        known |= {one.distribution for one in plugins.loaded}
        raise UnknownNameError("plugin or offer", name, known)
    return found


def _tried(ledger: Ledger, model: str, run: Callable[[], Any]) -> bool:
    """Note what is claimed of one model; say whether it was not refused."""
    try:
        for claim, problem in run():
            ledger.note(model, claim, problem)
    except PluginError as error:
        ledger.note(model, RUNS, error.message)
    except SurgeonError as error:
        ledger.refused[model] = error.message
        ledger.note("", RUNS, None)
        return False
    except Exception as error:  # noqa: BLE001 - whatever a plugin raises is told, not raised
        ledger.note(model, RUNS, f"{type(error).__name__}: {' '.join(str(error).split())[:300]}")
        return False
    else:
        ledger.note(model, RUNS, None)
    return True


def _found(offer: Any, plugins: Plugins) -> tuple[Found[Any], Plugins]:
    """Return an offer with its origin, among the plugins that know it."""
    if isinstance(offer, Found):
        return offer, plugins
    if isinstance(offer, str):
        every = offers(plugins=plugins)
        for found in every:
            if found.offer.name == offer:
                return found, plugins
        raise UnknownNameError("offer", offer, {found.offer.name for found in every})
    kind = type(offer)
    known = plugins.offers(kind).get(offer.name)
    if known is not None and known.offer == offer:
        return known, plugins
    fresh = load_plugins()
    fresh.manager.register(_Given(offer), name="given")
    return fresh.offer(kind, offer.name), fresh


class _Given:
    """A plugin of one offer that is installed nowhere."""

    def __init__(self, offer: Any) -> None:
        hook = KINDS[type(offer).__name__][1]
        setattr(self, hook, hookimpl(lambda: [offer]))
