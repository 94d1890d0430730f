import pytest

from polygene.vocab.ages import age_in_years

WEEK = 7 / 365.25


@pytest.mark.parametrize(
    ("label", "years"),
    [
        ("57-year-old human stage", 57),
        ("57-year-old stage", 57),
        ("57 year-old", 57),
        ("57", 57),
        ("57.5", 57.5),
        ("57.0", 57),
        ("57y", 57),
        ("57 yrs", 57),
        ("57 y.o.", 57),
        ("Age: 57", 57),
        ("aged 57 years", 57),
        ("110-year-old human stage", 110),
        ("80 year-old and over human stage", 80),
        ("80 and over", 80),
        ("90+", 90),
        (">89", 89),
        ("0", 0),
        ("newborn human stage", 0),
        ("newborn stage (0-28 days)", 0),
        ("8-month-old stage", 8 / 12),
        ("1-month-old human stage", 1 / 12),
        ("18 months", 1.5),
        ("2 years 6 months", 2.5),
        ("3-week-old stage", 3 * WEEK),
        ("10 days", 10 / 365.25),
        ("fifth decade human stage", 45),
        ("fifth decade stage", 45),
        ("tenth decade human stage", 95),
        ("3rd decade", 25),
        ("60-79 year-old stage", 70),
        ("15–19 year-old", 17.5),
        ("25 to 44 years", 35),
        ("infant stage (1-23 months)", 12.5 / 12),
        ("under-1-year-old human stage", 0.5),
        ("<2 years", 1),
        ("10th week post-fertilization stage", (10 - 38) * WEEK),
        ("10th week post-fertilization human stage", (10 - 38) * WEEK),
        ("22nd week post-fertilization human stage", (22 - 38) * WEEK),
        ("9th week post-fertilisation", (9 - 38) * WEEK),
        ("38 weeks post-conception", 0),
        ("fetal stage, 13.3 weeks", (13.3 - 38) * WEEK),
        ("fetal stage, 13 weeks", (13 - 38) * WEEK),
        ("foetus of 90 days", 90 / 365.25 - 38 * WEEK),
        ("12 pcw", (12 - 38) * WEEK),
        ("PCW12", (12 - 38) * WEEK),
        ("9-10 pcw", (10 - 38) * WEEK),
        ("20 weeks gestation", (20 - 40) * WEEK),
        ("gestational week 20", (20 - 40) * WEEK),
        ("GW20", (20 - 40) * WEEK),
        ("-0.5", -0.5),
    ],
)
def test_an_age_is_read_in_years_from_birth(label, years):
    assert age_in_years(label) == pytest.approx(years, abs=1e-12)


@pytest.mark.parametrize(
    "label",
    ["adult", "human adult stage", "Carnegie stage 20", "fetal stage", "embryonic stage", "stage 3", "unknown", ""],
)
def test_a_stage_without_a_number_of_years_is_not_read(label):
    assert age_in_years(label) is None


@pytest.mark.parametrize(
    "label", ["2019", "200-year-old", "-57", "E10.5", "P10", "sample57", "P57y", "57 m", "organoid day 30"]
)
def test_a_number_that_is_no_plausible_age_is_not_read(label):
    assert age_in_years(label) is None
