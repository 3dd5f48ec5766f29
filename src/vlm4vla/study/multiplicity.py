"""Several comparisons in one study: adjusted p-values (statsmodels), and letters that say who differs from whom."""

from collections.abc import Collection, Sequence

from statsmodels.stats.multitest import multipletests


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjusted p-values, in the order given; [] for none. They bound the chance of any false claim."""
    return _adjusted(p_values, "holm")


def benjamini_hochberg(p_values: Sequence[float]) -> list[float]:
    """Benjamini and Hochberg's adjusted p-values, in the order given; they bound the share of false claims."""
    return _adjusted(p_values, "fdr_bh")


def _adjusted(p_values: Sequence[float], method: str) -> list[float]:
    if not p_values:
        return []
    return [float(p) for p in multipletests(list(p_values), method=method)[1]]


def letters(names: Sequence[str], different: Collection[tuple[str, str]]) -> dict[str, str]:
    """Compact letter display: two names share a letter exactly when they could not be told apart.

    ``names`` from best to worst decides that "a" stands at the top; ``different`` are the pairs, in either order, that
    the study's corrected comparisons tell apart. Insert and absorb (Piepho 2004): every column of the display is a
    largest set of names of which no two differ.
    """
    columns: list[set[str]] = [set(names)]
    for one, other in different:
        split: list[set[str]] = []
        for column in columns:
            split += [column - {one}, column - {other}] if one in column and other in column else [column]
        columns = []
        for column in sorted(split, key=len, reverse=True):
            if column and not any(column <= kept for kept in columns):
                columns.append(column)
    order = {name: place for place, name in enumerate(names)}
    columns.sort(key=lambda column: sorted(order[name] for name in column))
    return {name: "".join(_letter(i) for i, column in enumerate(columns) if name in column) for name in names}


def _letter(number: int) -> str:
    """a to z, then A to Z, then a bracketed number."""
    alphabet = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
    return alphabet[number] if number < len(alphabet) else f"({number + 1})"
