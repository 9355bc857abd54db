"""All scores of a picture as one, by a logistic regression that is judged on combinations that it was not fitted on."""

import pandas as pd

NAME = "fitted"


def fitted(scores: pd.DataFrame, truth: pd.DataFrame) -> pd.DataFrame | None:
    """For each picture (candidate_id, combination, truth) as `value` how much more likely a success is, in log odds.

    scores: rows (candidate_id, metric, value); truth: rows (candidate_id, combination, truth), truth 0 or 1. The pictures of a combination
    are told by a regression of the other ones (leave one group out), so that it has seen neither them nor their subjects. A score
    that a picture lacks is its mean, beside a column that says so. None with fewer than two combinations, or where the others of
    one are all alike.
    """
    # 1.5 s to import, for the one row of a report.
    from sklearn.impute import SimpleImputer
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import LeaveOneGroupOut, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    known = truth.sort_values("candidate_id").reset_index(drop=True)
    right = known["truth"] > 0
    groups = known["combination"]
    if any(right[groups != group].nunique() < 2 for group in groups.unique()):
        return None
    columns = scores.pivot(index="candidate_id", columns="metric", values="value").reindex(known["candidate_id"])
    model = make_pipeline(SimpleImputer(add_indicator=True, keep_empty_features=True), StandardScaler(), LogisticRegression(max_iter=1000))
    odds = cross_val_predict(model, columns.to_numpy(), right, groups=groups, cv=LeaveOneGroupOut(), method="decision_function")
    return known.assign(value=odds)
