"""What collectives and messages cost where measurements are at hand: physics times the correction of a profile."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from calibration.cost.learned_messages import MessageModel
from calibration.cost.model import CostModel, Prices
from hardware.types import Cluster
from sim import collectives
from workloads.ops import CommunicationOp


def message_prices(ops: Sequence[CommunicationOp], cluster: Cluster, cost_model: CostModel) -> Prices:
    """Of each op, alone on its links; measured only within one domain, on the profile's own device and fabric."""
    seconds, spread = collectives.seconds(ops, cluster)
    model = measured_messages(cost_model, cluster)
    if model is None or not ops:
        return Prices(seconds, spread)
    found = model.correction(ops)
    trust = found.trust * within_domain(ops, cluster)
    spread = np.sqrt(trust * np.square(found.spread) + (1 - trust) * np.square(spread))
    return Prices(seconds * np.exp(trust * found.log), np.where(seconds > 0, spread, 0.0))


def measured_messages(cost_model: CostModel, cluster: Cluster) -> MessageModel | None:
    """The curves of a cost model that hold on a cluster; None where physics stands alone."""
    profile = getattr(cost_model, "profile", None)
    if profile is None or cluster.device.name not in profile.devices:
        return None
    model: MessageModel | None = profile.messages
    return model if model and model.fabric == cluster.scale_up.name else None


def within_domain(ops: Sequence[CommunicationOp], cluster: Cluster) -> NDArray[np.bool_]:
    """Whether all that take part in each op share one scale-up domain."""
    return np.array([collectives.in_one_domain(op, cluster) for op in ops], dtype=np.bool_)
