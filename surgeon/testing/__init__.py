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

from functools import partial
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
from surgeon.testing.claims import RUNS, Claim, Ledger
from surgeon.testing.networks import NETWORKS
from surgeon.testing.samples import COUNT

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Sequence

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
    models: Sequence[str | os.PathLike[str]] = tuple(NETWORKS),
    answers: Any = None,
    count: int | None = None,
    plugins: Plugins | None = None,
    progress: Callable[..., None] | None = None,
) -> list[Claim]:
    """Try an offer, and return what was claimed of it and whether it held.

    Args:
        offer: its name, or the offer itself, which need not be installed.
        options: settings, where it needs some: `key=value,key=value`.
        models: files to try it on, or names of `NETWORKS`, as all nine are.
        answers: of `count` samples, for a task that reads none of the usual answers.
        count: samples to train on; None = 48.
        plugins: loaded plugins; None loads them.
        progress: called as `progress(stage, done, total)`.

    Raises:
        UnknownNameError: there is no offer of that name.
    """
    found, plugins = _found(offer, loaded_plugins(plugins))
    word = KINDS[type(found.offer).__name__][0]
    text = f"{found.offer.name}:{options}" if options else found.offer.name
    ledger, usable, names = Ledger(), None, [str(model) for model in models]
    trials = [
        kinds.Trial(
            found, NETWORKS[name]() if name in NETWORKS else name, plugins, text, place,
            count or COUNT, answers,
        )
        for place, name in enumerate(names)
    ]  # fmt: skip
    if not _tried(ledger, "", partial(kinds.once, trials[0])) or word not in kinds.EACH:
        return ledger.claims()
    for place, (name, trial) in enumerate(zip(names, trials, strict=True)):
        if progress is not None:
            progress(f"{word} {found.offer.name}", place, len(trials))
        if _tried(ledger, name, partial(kinds.EACH[word], trial)):
            usable = usable or trial
    if progress is not None:
        progress(f"{word} {found.offer.name}", len(trials), len(trials))
    if usable is None:
        ledger.note("", RUNS, "; ".join(f"{m}: {w}" for m, w in ledger.refused.items()))
    elif word in kinds.WITH_SETTINGS:
        problem = kinds.bad_options(word, usable)
        ledger.note("", "bad options are refused in clear words", problem)
    return ledger.claims()


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
