"""How tokens are dealt to experts, and how many ranks or nodes that takes them to."""

from math import comb
from typing import NamedTuple


class Routing(NamedTuple):
    """How a router picks experts for a token: `picked` ones, out of `allowed` of `groups` groups of equal size."""

    experts: int
    picked: int
    groups: int = 1
    allowed: int = 1

    def hit(self, parts: int) -> float:
        """Of so many equal parts of the experts, how many have one that the token goes to, in the mean.

        Every expert is as likely as another, and none is picked twice; so are groups. By hand: 8 of 256 in 8 parts, all
        allowed: 8 (1 - C(224, 8) / C(256, 8)) = 5.3.
        """
        of_part, of_group = self.experts // parts, self.experts // self.groups
        open_to_all = self.allowed * of_group
        missed = sum(
            share * comb(max(open_to_all - min(among * of_group, of_part), 0), self.picked)
            for among, share in self._allowed_groups(parts)
        )
        return parts * (1.0 - missed / comb(open_to_all, self.picked))

    def _allowed_groups(self, parts: int) -> list[tuple[int, float]]:
        """How many of the groups that a part of the experts has, or is in, are allowed, and how likely that is."""
        own = max(1, self.groups // parts)
        ways = comb(self.groups, self.allowed)
        return [
            (among, comb(own, among) * comb(self.groups - own, self.allowed - among) / ways)
            for among in range(min(own, self.allowed) + 1)
        ]
