"""What got worse since the errors on published runs were recorded: a sentence for each source that moved."""

from collections.abc import Iterator, Mapping

Recorded = Mapping[str, Mapping[str, float]]

# Of a recorded mean error: a change of physics that is right moves some source by this much.
TOLERANCE = 1.1
# Of tau. Runs repeat within 3 %, and 8 of the 64 pairs of layouts in the sweeps that ship are measured closer together
# than that: which comes first is chance, and chance moves tau by sqrt(8) / 64 = 0.044. Twice that is allowed, which is
# also a little more than one pair of the smallest sweep that changes sides.
TAU_TOLERANCE = 0.1
REMEDY = "what moved it? If predictions got better as a whole, delete its figure from errors.json, and make record"


def worsened(now: Recorded, then: Recorded, skipped: Mapping[str, str]) -> list[str]:
    """Sentences that name a source, what it was, what it is and by how much; none where nothing got worse.

    Args:
        now: source -> figures, as `record_published_errors.errors` gives them.
        then: the figures that were recorded.
        skipped: id -> reason, of rows that were not compared.
    """
    found = [f"{name}: not recorded yet; make record" for name in now if name not in then]
    for name, was in then.items():
        found += [f"{name}: {what}" for what in _worse(now.get(name, {}), was)]
    found += [f"row {row} dropped out: {reason}" for row, reason in skipped.items()]
    return [f"{each}. {REMEDY}" for each in found]


def _worse(now: Mapping[str, float], was: Mapping[str, float]) -> Iterator[str]:
    for key, what in (("n", "step times"), ("memory_n", "memory figures"), ("layouts", "layouts of sweeps")):
        if now.get(key, 0.0) < was.get(key, 0.0):
            yield f"{was[key]:.0f} {what} were compared, {now.get(key, 0.0):.0f} are"
    for key, what in (("mean_abs_error", "step time"), ("memory_mean_abs_error", "memory")):
        if key in was and now.get(key, 0.0) > TOLERANCE * was[key]:
            change = now[key] / was[key] - 1.0 if was[key] else float("inf")
            yield f"mean error of the {what} was {was[key]:.1%}, is {now[key]:.1%}: worse by {change:.0%} of itself"
    if "tau" in was and now.get("tau", -1.0) < was["tau"] - TAU_TOLERANCE:
        yield f"tau of its sweeps was {was['tau']:.2f}, is {now.get('tau', -1.0):.2f}: layouts are ranked worse"
