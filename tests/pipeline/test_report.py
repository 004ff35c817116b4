"""The report in a real browser: it draws, sorts and filters, asks no network, and shows what a model says as text alone."""

import base64
import gzip
import json
import re
import shutil
import time
from types import SimpleNamespace

import numpy as np
import pytest

import report
from anchora.evaluation.calibration import abstention_metrics

EVIL = "<script>document.title = 'run'</script><img src=x onerror=\"document.title = 'run'\">"


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    programs = shutil.which("chromium"), shutil.which("chromedriver")
    if None in programs:
        pytest.skip("the report is looked at in chromium, which is not installed (Debian: chromium, chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = programs[0]
    quiet = "--disable-background-networking --disable-component-update --disable-sync --disable-quic --no-first-run".split()
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path_factory.mktemp('browser')}", *quiet):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(programs[1]))
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def page(ran) -> str:
    return (ran / "metrics" / "report.html").read_text()


def embedded_data(page: str) -> dict:
    return json.loads(gzip.decompress(base64.b64decode(re.search(r'id="data">([^<]*)<', page)[1])))


def with_data(page: str, data: dict) -> str:
    return re.sub(r'(id="data">)[^<]*<', lambda match: f"{match[1]}{report.packed_json(data)}<", page)


def opened(browser, page: str, path, width: int = 1440) -> float:
    """Open the page and wait until it is drawn; the seconds that took."""
    path.write_text(page)
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False})
    begun = time.monotonic()
    browser.get(path.as_uri())
    while browser.execute_script("return document.body.dataset.ready") != "yes":
        assert time.monotonic() - begun < 30
        time.sleep(0.05)
    return time.monotonic() - begun


def choose(browser, control: str, value: str) -> None:
    browser.execute_script(
        "const control = document.getElementById(arguments[0]); control.value = arguments[1];"
        "control.dispatchEvent(new Event(control.type === 'search' ? 'input' : 'change'))",
        control,
        value,
    )
    time.sleep(0.3)


def visible_cards(browser) -> list[str]:
    return browser.execute_script("return [...document.querySelectorAll('.case')].map((card) => card.innerText)")


@pytest.mark.parametrize("width", [390, 1440])
def test_the_page_draws_without_errors_or_requests_at_any_width(browser, page, tmp_path, width):
    opened(browser, page, tmp_path / "report.html", width)
    blank = browser.execute_script(
        "return [...document.querySelectorAll('canvas')].filter((canvas) => !canvas.getContext('2d')"
        ".getImageData(0, 0, canvas.width, canvas.height).data.some((value) => value)).map((canvas) => canvas.id)"
    )
    assert blank == [] and len(browser.execute_script("return [...document.querySelectorAll('canvas')]")) == 8
    assert browser.get_log("browser") == []
    assert browser.execute_script("return performance.getEntriesByType('resource').length") == 0
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width  # no scrolling sideways


def test_cases_are_sorted_searched_and_filtered(browser, page, tmp_path):
    cases = embedded_data(page)["cases"]
    opened(browser, page, tmp_path / "report.html")
    assert f"regret {max(case['regret'] for case in cases):.2f}" in visible_cards(browser)[0]
    choose(browser, "sort", "uncertainty")
    choose(browser, "order", "1")
    assert f"uncertainty {min(case['uncertainty'] for case in cases):.2f}" in visible_cards(browser)[0]
    choose(browser, "round", "1")
    assert all("round 1" in card for card in visible_cards(browser))
    count = browser.find_element("id", "count").text
    assert count == f"{sum(case['round'] == 1 for case in cases)} of {len(cases)} cases"
    word = cases[0]["prompt"].split()[-2]
    choose(browser, "search", word.upper())
    assert visible_cards(browser) and all(word.lower() in card.lower() for card in visible_cards(browser))
    choose(browser, "search", "no such words anywhere")
    assert visible_cards(browser) == [] and browser.find_element("id", "next").get_attribute("disabled")


def test_a_models_words_are_shown_as_text(browser, page, tmp_path):
    data = embedded_data(page)
    evil = {"prompt": EVIL, "chosen": EVIL, "final": EVIL, "pieces": [EVIL], "entropies": [1.0], "regret": 1e6}
    data["cases"].insert(0, {**data["cases"][0], **evil})
    opened(browser, with_data(page, data), tmp_path / "report.html")
    assert visible_cards(browser)[0].count("<script>document.title") == 4
    assert browser.title == "Anchora report" and browser.get_log("browser") == []
    assert browser.execute_script("return document.querySelectorAll('.case script, .case img').length") == 0


def test_fifty_thousand_cases_stay_fast(browser, page, tmp_path):
    data = embedded_data(page)
    first = data["cases"][0]
    data["cases"] = [{**first, "prompt": f"number {n} of many: {first['prompt']}", "regret": n / 100} for n in range(50_000)]
    assert opened(browser, with_data(page, data), tmp_path / "report.html") < 15
    begun = time.monotonic()
    choose(browser, "search", "number 49999 ")
    assert time.monotonic() - begun < 3 and len(visible_cards(browser)) == 1


def test_the_page_loads_nothing_from_elsewhere(page):
    """Nothing is fetched: no address in an attribute, and the policy of the page forbids it."""
    assert not re.search(r"""(?:src|href)=["'](?!#)""", page.split('<script type="application/octet-stream"')[0])
    assert "default-src 'none'" in page and "The MIT License" in page


def test_only_names_of_the_template_are_filled_in():
    assert report.fill("a {{x}} b {{y}}", {"x": "{{y}}", "y": "2"}) == "a {{y}} b 2"


def test_the_report_says_what_abstention_promises_and_does():
    """Sixty right answers at 0.4 show that at most 5% are wrong, 0.95^60 < 0.1; sixty wrong ones show it of none, and no answers neither.

    Of the two problems the one at 0.2 is answered, and right; knowing so, no more could be answered.
    """
    policy = {"uncertainty": np.array([0.2, 0.9]), "correct": np.array([True, False])}

    def metrics(calibration: tuple[list[float], list[bool]], target: float = 0.05) -> dict:
        return abstention_metrics(SimpleNamespace(calibration=calibration, **policy), target, 0.9)

    kept = metrics(([*[0.4] * 60, *[0.7] * 60], [*[True] * 60, *[False] * 60]))
    assert (kept["answered"], kept["answered_at_most"], kept["risk"]) == (0.5, 0.5, 0.0) and 0.5 <= kept["threshold"] < 0.7
    assert "at most 5% are wrong" in report.abstention_text(kept) and "answers 50.0% of these problems" in report.abstention_text(kept)
    for calibration, reason in ((([], []), "at least 45 calibration answers"), (([0.2] * 60, [False] * 60), "show of no threshold")):
        withheld = metrics(calibration)
        assert (withheld["answered"], withheld["risk"], withheld["threshold"]) == (0.0, None, None)
        assert reason in report.abstention_text(withheld)
    assert metrics(([], []), target=1.0)["answered"] == 1.0
