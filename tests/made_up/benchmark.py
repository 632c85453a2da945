"""A study of POP on the benchmark, whose optimizers leave fixed shares of the regret."""

import numpy as np
import pandas as pd

from optrepro.analysis.results import Facts, StudyResults

BUDGET, STARTS, FEW = 10, 12, 6
GROUP = {
    **dict.fromkeys(["sphere", "sum_squares", "trid"], "bowl"),
    **dict.fromkeys(["booth", "matyas", "zakharov"], "plate"),
    **dict.fromkeys(["rastrigin", "levy", "eggholder"], "many local minima"),
}
SMOOTH = [name for name in GROUP if name != "eggholder"]
# The share of its start's regret that an optimizer leaves.
LEFT = {"adam": 2e-1, "rprop": 1e-1, "lbfgs": 1e-7, "pop": 1e-6, "tpe": 3e-1}
LEFT_EACH = {"adam": 1e-2, "rprop": 1e-1, "lbfgs": 1e-7}
OPTIMIZERS = {
    "adam": {"label": "Adam", "group": "first-order"},
    "rprop": {"label": "Rprop", "group": "first-order"},
    "lbfgs": {"label": "L-BFGS", "group": "quasi-newton"},
    "pop": {"label": "POP", "group": "policy"},
}
COLUMNS = ["workload", "optimizer", "role", "learning_rate", "seed", "step", "metric", "value"]


def made_up(left=None, drop=()):
    """Every optimizer leaves a fixed share of the regret; `left` {(function, optimizer): share} overrides it."""
    rows = []
    for key in OPTIMIZERS:
        rates = {0.1: 1.0, 0.2: 3.0, 0.4: 2.0} if key not in ("pop", "tpe") else {np.nan: 5.0}
        rows += [["prior-validation", key, "tune", r, 0, BUDGET, "tuning_score", s] for r, s in rates.items()]
    rows.append(["prior-validation", "adam", "tune", 0.4, 3, 5, "diverged", 1.0])
    for prefix, shares in (("vlse", LEFT), ("vlse-each", LEFT_EACH)):
        for function, group in GROUP.items():
            for key, share in shares.items():
                if key in drop or (function, key) in drop:
                    continue
                share = (left or {}).get((function, key), share)
                rows += _runs(f"{prefix}/{function}", key, share, FEW if key == "tpe" else STARTS)
                if prefix == "vlse":
                    facts = {"range": 1e3, "dimension": 2, "smooth": function in SMOOTH, f"group[{group}]": 1}
                    rows += [[f"vlse/{function}", key, "test", 0.2, 0, 0, m, float(v)] for m, v in facts.items()]
                else:
                    scores = {0.1: 1.0, 0.2: 2.0, 0.4: 9.0}.items()
                    workload = f"{prefix}/{function}"
                    rows += [[workload, key, "tune", r, 0, BUDGET, "tuning_score", s] for r, s in scores]
    rows += [["vlse/sphere", "pop", "test", np.nan, 0, t, f"x{k}", t + k] for t in (1, 2, 3) for k in (0, 1)]
    rows += [["vlse/booth", "pop", "test", np.nan, 0, t, f"x{k}", t + k] for t in (1, 2, 3) for k in (0, 1)]
    rows.append(["vlse/sphere", "pop", "test", np.nan, 0, 0, "best_evaluation", 2.0])
    quantiles = {"rate_median": -2.0, "rate_lower": -3.0, "rate_upper": -1.0}
    rows += [["vlse/sphere", "pop", "test", np.nan, 0, 4, metric, value] for metric, value in quantiles.items()]
    rows.append(["prior-test", "adam", "test", 0.2, 0, BUDGET, "regret", 1.0])
    settings = {
        "functions": list(GROUP),
        "budget": BUDGET,
        "optimizers": OPTIMIZERS,
        "references": {"tpe": {"label": "TPE", "method": "tpe"}},
    }
    runs = pd.DataFrame(rows, columns=COLUMNS)
    runs = runs[~runs.optimizer.isin(drop)].assign(run="r", study="pop")
    return StudyResults(runs, Facts("pop", "test", settings, None, (), 0, ()))


def _runs(workload, key, share, starts):
    rows = []
    for start in range(starts):
        first = 10.0 * (1 + start) if (workload, start) != ("vlse/sphere", 0) else 0.0  # optimal already
        # what happens beyond the trained budget is no concern of these tables
        values = {1: first, BUDGET: first * share, 5 * BUDGET: 0.0}
        rows += [[workload, key, "test", 0.2, start, step, "regret", value] for step, value in values.items()]
    return rows
