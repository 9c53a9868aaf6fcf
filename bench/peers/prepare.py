"""DIGINETICA's raw files to sessions with pandas, as one would write it in a notebook: everything in memory.

`python -m bench.peers.prepare RAW OUT` writes one Parquet file and prints the number of sessions and of clicks. The rules are
those of `irecgan_ext.prepare diginetica --end none`, without its report, maps and split.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pandas as pd


def prepare(raw: Path, out: Path) -> tuple[int, int]:
    """Sessions and clicks kept."""
    queries = pd.read_csv(raw / "train-queries.csv", sep=";", na_values="NA", low_memory=False)
    queries = queries[~queries["is.test"].astype(bool)].drop_duplicates("queryId")
    clicks = pd.read_csv(raw / "train-clicks.csv", sep=";").drop_duplicates()
    bought = pd.read_csv(raw / "train-purchases.csv", sep=";").drop_duplicates()
    columns = ["queryId", "sessionId", "eventdate", "items"]
    steps = clicks.merge(queries[columns].dropna(), on="queryId").sort_values(
        ["sessionId", "eventdate", "timeframe"], kind="stable"
    )
    steps["list"] = [[int(item) for item in text.split(",")] for text in steps["items"]]
    steps = steps[[item in shown for item, shown in zip(steps["itemId"], steps["list"])]]
    while True:
        size = len(steps)
        length = steps.groupby("sessionId")["itemId"].transform("size")
        steps = steps[(length >= 2) & (length <= 40)]
        counts = steps["itemId"].value_counts().reset_index()
        counts = counts.sort_values(["count", "itemId"], ascending=[False, True]).head(40_000)
        number = {item: index for index, item in enumerate(counts["itemId"])}
        steps = steps[steps["itemId"].isin(number.keys())]
        if len(steps) == size:
            break
    slates = [list(dict.fromkeys(number[item] for item in shown if item in number)) for shown in steps["list"]]
    last = ~steps.duplicated(["sessionId", "itemId"], keep="last")
    paid = steps.merge(bought[["sessionId", "itemId"]].drop_duplicates().assign(paid=1.0), how="left")["paid"].notna()
    table = pd.DataFrame(
        {
            "session": steps["sessionId"].to_numpy(),
            "step": steps.groupby("sessionId").cumcount().to_numpy(),
            "slate": slates,
            "click": [number[item] for item in steps["itemId"]],
            "reward": (last.to_numpy() & paid.to_numpy()).astype("float32"),
        }
    )
    table.to_parquet(out)
    return steps["sessionId"].nunique(), len(steps)


if __name__ == "__main__":
    print(*prepare(Path(sys.argv[1]), Path(sys.argv[2])))
