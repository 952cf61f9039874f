"""What the page shows of a search in progress, and how it moves when the ledger does; tests run in their order."""

import re
from datetime import UTC, datetime
from pathlib import Path

from page_bench import Server, Watch
from page_checks import checked
from page_story import (
    DONE,
    FEASIBLE,
    FRONT,
    LATER,
    REAL,
    SIGHTED,
    SILENT,
    VIRTUAL,
    Story,
    done,
    facts,
    report,
    sightings,
    vitals,
)
from playwright.sync_api import Locator, Page, expect

from device_agent.contracts import Blame, CheckName, Fault, PhoneState, Sighting

HOST_NOTE = "its milliseconds are this host's"


def row(page: Page, number: int) -> Locator:
    return page.locator(f"tr[data-number='{number}']")


def order(page: Page) -> list[int]:
    numbers: list[int] = page.locator("tr[data-number]").evaluate_all("rows => rows.map(r => Number(r.dataset.number))")
    return numbers


def column(page: Page, name: str) -> Locator:
    return page.locator("thead button", has_text=re.compile(f"^{name}"))


def open_search(page: Page, story: Story, hash_: str = "") -> None:
    page.goto(story.base + "/" + hash_)
    expect(page.locator("tr[data-number]")).to_have_count(14)
    expect(page.locator(".connection")).to_have_text("live")


def test_leaderboard_shows_every_candidate_with_its_standing(page: Page, story: Story, watch: Watch) -> None:
    open_search(page, story)
    assert order(page) == list(range(14))
    for number in DONE:
        badges = row(page, number).locator(".badge").all_inner_texts()
        assert ("feasible" in badges) == (number in FEASIBLE)
        assert ("front" in badges) == (number in FRONT)
    expect(row(page, 2)).to_contain_text("over decode, TTFT, memory")
    expect(row(page, 8)).to_contain_text("over decode, memory")
    expect(row(page, 2).locator("td.over")).to_have_count(3)
    expect(row(page, 5)).to_contain_text("failed")
    expect(row(page, 5)).to_contain_text("The runner was killed by signal 9")
    expect(row(page, 5)).to_contain_text("lower the largest width or depth")
    expect(row(page, 11)).to_contain_text("measured")
    expect(row(page, 13)).to_contain_text("proposed")
    expect(row(page, 0).get_by_role("img")).to_have_attribute("aria-label", "blocks c c A c c A")
    for text in ("2.513", "0.820", "0.795\u20130.853", "62.0", "2\u202f065", "1\u202f220", "3.90", "128"):
        expect(row(page, 0)).to_contain_text(text)


def test_head_says_where_the_search_is(page: Page, story: Story, watch: Watch) -> None:
    open_search(page, story)
    head = page.locator("article.search")
    expect(head.locator("h1")).to_have_text("small hybrid")
    expect(head.locator(".counts")).to_have_text(re.compile(r"proposed\s*14\s*done\s*10\s*feasible\s*8\s*failed\s*1"))
    expect(head.get_by_label("Budgets")).to_contain_text("Decode ≤ 2.00 ms/token")
    expect(head.locator(".where")).to_contain_text("measuring candidate 12 on Virtual S24")
    bar = head.get_by_role("progressbar", name="Progress of the search")
    expect(bar).to_have_attribute("aria-valuenow", "11")
    expect(page.get_by_label("Standing")).to_contain_text("kept by 8 of 10 measured")


def test_columns_sort_and_the_address_keeps_it(page: Page, story: Story, watch: Watch) -> None:
    open_search(page, story)
    column(page, "Quality").click()
    best_first = sorted(DONE, key=lambda number: DONE[number][2])
    assert order(page) == [*best_first, 5, 11, 12, 13]
    column(page, "Quality").click()
    assert order(page) == [*reversed(best_first), 5, 11, 12, 13]
    expect(page.locator("th[aria-sort='descending']")).to_contain_text("Quality")
    page.get_by_label("Figures on").select_option(REAL)
    page.reload()
    expect(page.locator("tr[data-number]")).to_have_count(14)
    assert order(page) == [*reversed(best_first), 5, 11, 12, 13]
    expect(page.get_by_label("Figures on")).to_have_value(REAL)
    page.get_by_role("button", name=re.compile("^Front")).click()
    expect(page.locator("tr[data-number]")).to_have_count(len(FRONT))


def test_numbers_of_a_virtual_phone_are_marked(page: Page, story: Story, watch: Watch) -> None:
    open_search(page, story)
    for label in ("Front", "Standing", "Leaderboard", "Fleet in short"):
        expect(page.get_by_label(label, exact=True).locator(".badge-virtual").first).to_be_visible()
    expect(page.locator(".phone-choice")).to_contain_text(HOST_NOTE)
    page.get_by_label("Figures on").select_option(REAL)
    expect(page.locator("article.search .badge-virtual")).to_have_count(0)
    expect(row(page, 0)).to_contain_text("2.46")


def test_plot_and_table_point_at_each_other(page: Page, story: Story, watch: Watch) -> None:
    open_search(page, story)
    canvas = page.locator(".plot-canvas")
    expect(canvas).to_have_attribute("data-points", str(len(DONE)))
    row(page, 6).hover()
    tip = page.get_by_role("tooltip")
    expect(tip).to_contain_text("#6")
    expect(tip).to_contain_text("2.218")
    expect(tip.locator(".badge-virtual")).to_be_visible()
    where = page.evaluate(
        """() => {
          const node = document.querySelector(".plot-canvas");
          const box = node.getBoundingClientRect();
          const chart = echarts.getInstanceByDom(node);
          const [x, y] = chart.convertToPixel({ xAxisIndex: 0, yAxisIndex: 0 }, [0.55, 2.688]);
          return { x: box.x + x, y: box.y + y, lines: chart.getOption().series[1].markLine.data.length,
            front: chart.getOption().series[0].data.length };
        }"""
    )
    assert where["lines"] == 1  # the decode budget; quality has none
    assert where["front"] == len(FRONT)
    page.mouse.move(where["x"], where["y"])
    expect(tip).to_contain_text("#3")
    expect(row(page, 3)).to_have_class(re.compile("is-hovered"))
    page.get_by_label("Across").select_option("peak_memory_mb")
    expect(page).to_have_url(re.compile("x=peak_memory_mb"))


def test_details_open_by_keyboard(page: Page, story: Story, watch: Watch) -> None:
    open_search(page, story)
    button = page.get_by_role("button", name="Candidate 6, details")
    button.focus()
    page.keyboard.press("Enter")
    detail = page.locator(".detail")
    expect(button).to_have_attribute("aria-expanded", "true")
    expect(detail).to_contain_text("Decode, 95th percentile")
    expect(detail).to_contain_text("off by 5.0 %")  # what was predicted of decoding
    expect(detail).to_contain_text("Program, one filebbbbbbbbbbbb")
    expect(detail).to_contain_text("export")
    expect(detail.locator("h4", has_text="Bench 3")).to_be_visible()


def test_page_moves_when_the_ledger_does_and_rows_keep_still_under_the_pointer(
    page: Page, story: Story, watch: Watch, pictures: Path
) -> None:
    open_search(page, story, "#sort=bits_per_byte")
    page.screenshot(path=pictures / "page-search.png")
    before = order(page)
    row(page, before[0]).hover()
    page.evaluate("() => void scrollTo(0, 60)")
    bar = page.get_by_role("progressbar", name="Progress of the search")
    story.ledger.remember(done(11, LATER))
    story.ledger.progress("scoring candidate 12", 12, 16)
    expect(bar).to_have_attribute("aria-valuenow", "12")
    expect(row(page, 11)).to_contain_text("2.050")
    expect(page.locator(".plot-canvas")).to_have_attribute("data-points", "11")
    assert order(page) == before
    assert page.evaluate("scrollY") == 60
    expect(page.locator(".waits")).to_have_text("order held while you read")
    page.mouse.move(5, 5)
    expect(page.locator(".waits")).to_have_count(0)
    expect(page.locator("tr[data-number]").first).to_have_attribute("data-number", "11")


def test_refusal_to_be_read_is_said(page: Page, story: Story, watch: Watch) -> None:
    refusal = {"title": "Not ready", "detail": "the database lacks migrations", "advice": "Start the server again."}
    page.route(story.base + "/v1/runs", lambda route: route.fulfill(status=503, json=refusal))
    page.goto(story.base)
    expect(page.get_by_role("alert")).to_contain_text(
        "Not ready: the database lacks migrations Start the server again."
    )
    with page.expect_response(story.base + "/v1/phones"):  # what can be read does not take it away
        story.report()
    page.wait_for_timeout(300)
    expect(page.get_by_role("alert")).to_contain_text("Not ready")
    watch.forgive("503")


def test_fleet_shows_states_and_what_to_do(page: Page, story: Story, watch: Watch, pictures: Path) -> None:
    story.report()
    page.goto(story.base + "/#view=fleet")
    cards = {serial: page.locator(f"[data-serial='{serial}']") for serial in (VIRTUAL, REAL, SIGHTED, SILENT)}
    expect(cards[VIRTUAL].locator(".state")).to_have_text("ready")
    expect(cards[VIRTUAL]).to_contain_text("Running a measure job")
    expect(cards[VIRTUAL]).to_contain_text("samsung SM-S921B")
    expect(cards[VIRTUAL]).to_contain_text("bench-1")
    expect(cards[VIRTUAL]).to_contain_text(HOST_NOTE)
    expect(cards[REAL].locator(".state")).to_have_text("unreachable")
    expect(cards[REAL]).to_contain_text("Wake the phone")
    expect(cards[REAL]).to_contain_text("<b>ping</b>")  # data is text, never markup
    expect(cards[REAL].locator(".badge-virtual")).to_have_count(0)
    expect(cards[SILENT].locator(".state")).to_have_text("silent")
    expect(cards[SILENT]).to_contain_text("has stopped reporting")
    expect(cards[SIGHTED].locator(".state")).to_have_text("unauthorised")
    page.screenshot(path=pictures / "page-fleet.png", full_page=True)
    cards[SIGHTED].get_by_role("button").click()
    expect(cards[SIGHTED].get_by_role("button")).to_have_count(0)
    assert story.call("GET", f"/v1/phones/{SIGHTED}").json()["registered"] is True


def test_fleet_shows_how_phones_fare(page: Page, story: Story, watch: Watch, pictures: Path) -> None:
    story.report()
    page.goto(story.base + "/#view=fleet")
    card = page.locator(f"[data-serial='{VIRTUAL}']")
    for text in ("3.40 GHz (core 7)", "2.27 GHz (cores 0\u20131)", "92 %, 30.9 °C", "S921BXXS3AXF1", "4242", "91.0 GB"):
        expect(card).to_contain_text(text)
    expect(card).to_contain_text("1 restart")
    health = card.locator(".health")
    expect(health).to_contain_text("passed")
    health.locator("summary").click()
    expect(health).to_contain_text("256 KiB written and read back")
    page.get_by_role("searchbox").fill("sm8650 unreachable")
    expect(page.locator(".phone")).to_have_count(1)
    expect(page.locator(f"[data-serial='{REAL}']")).to_be_visible()


def test_fleet_takes_changes_and_says_what_keeps_a_phone_from_work(
    page: Page, story: Story, watch: Watch, pictures: Path
) -> None:
    low = Fault(blame=Blame.PHONE, slug="battery-low", message="The battery is at 12 %.", advice="Charge it.")
    now = datetime.now(UTC)
    rests = Sighting(
        serial=REAL,
        state=PhoneState.RESTING,
        facts=facts(False),
        fault=low,
        probed_at=now,
        vitals=vitals(now, 12, 24.0),
    )
    story.report([s for s in sightings() if s.serial != REAL] + [rests])
    page.goto(story.base + "/#view=fleet")
    card = page.locator(f"[data-serial='{REAL}']")
    expect(card.locator(".state")).to_have_text("resting")
    expect(card).to_contain_text("The battery is at 12 %.")
    card.locator("details.phone-more > summary").click()
    edit = card.get_by_role("form", name=f"Description of {REAL}")
    edit.get_by_label("Group").fill("rack-a")
    edit.get_by_label("Tags").fill("s24, fast")
    edit.get_by_label("Note").fill("<i>by the window</i>")
    edit.get_by_role("button", name="Save").click()
    expect(card.locator(".chip")).to_have_text(["rack-a", "s24", "fast"])
    expect(card.locator(".note")).to_have_text("<i>by the window</i>")
    maintenance = card.get_by_role("form", name=f"Maintenance of {REAL}")
    maintenance.get_by_label("Take it out").fill("new battery")
    maintenance.get_by_role("button").click()
    expect(card.locator(".state")).to_have_text("maintenance")
    expect(card).to_contain_text("new battery")
    page.screenshot(path=pictures / "page-fleet-changes.png", full_page=True)
    card.get_by_role("button", name="Back to work").click()
    expect(card.locator(".state")).to_have_text("resting")
    card.get_by_role("button", name="Check its health now").click()
    expect(card.get_by_role("button", name="Check its health now")).to_be_enabled()
    assert story.call("PUT", "/v1/agents/bench-1", json=report([rests]).model_dump(mode="json")).json()["check"] == [
        REAL
    ]
    edit.get_by_label("Group").fill("two words")
    edit.get_by_role("button", name="Save").click()
    expect(edit.get_by_role("alert")).to_contain_text("group")
    watch.forgive("422")
    story.report()


def test_register_form_registers_and_explains_refusals(page: Page, story: Story, watch: Watch) -> None:
    page.goto(story.base + "/#view=fleet")
    form = page.get_by_role("form", name="Register a phone")
    form.get_by_label("Serial").fill("not a serial")
    form.get_by_role("button").click()
    expect(form.get_by_role("alert")).to_contain_text("serial")
    watch.forgive("422")
    form.get_by_label("Serial").fill("NEWPHONE1")
    form.get_by_label("Tags").fill("s24, rack-a")
    form.get_by_role("button").click()
    expect(form.get_by_role("status")).to_have_text("NEWPHONE1 is registered.")
    expect(form.get_by_role("alert")).to_have_count(0)
    card = page.locator("[data-serial='NEWPHONE1']")
    expect(card.locator(".state")).to_have_text("unproven")
    expect(card).to_contain_text("rack-a")


def test_verdict_names_the_winner_and_what_binds(page: Page, story: Story, watch: Watch, pictures: Path) -> None:
    open_search(page, story)
    story.conclude()
    verdict = page.get_by_label("Verdict")
    expect(verdict).to_contain_text("Winner #6")
    expect(verdict).to_contain_text("candidate 8 would win")
    budgets = verdict.locator(".budgets li")
    expect(budgets.nth(0)).to_contain_text("1.72 of 2.00 ms/token · kept with > 99 %")
    expect(budgets.nth(0)).to_contain_text("slack")
    expect(budgets.nth(2)).to_contain_text("binds")
    expect(row(page, 6).locator(".badge-winner")).to_be_visible()
    expect(page.locator("article.search .where")).to_have_count(0)
    page.screenshot(path=pictures / "page-verdict.png")


def test_run_shows_its_stages_and_what_the_model_said(page: Page, story: Story, watch: Watch, pictures: Path) -> None:
    page.goto(story.base + "/#view=runs")
    expect(page.get_by_role("heading", name="No run yet")).to_be_visible()
    story.train()
    view = page.locator("article.run")
    expect(view).to_contain_text("candidate #6")
    expect(view.get_by_label("Stages").get_by_role("row")).to_have_count(4)
    trained = view.get_by_label("Stages").get_by_role("row", name="Pretraining")
    expect(trained).to_contain_text(re.compile(r"8\.050\s*2\.020\s*better"))
    expect(view.locator(".prompt")).to_have_text("def add(")
    expect(view.locator(".answer")).to_contain_text("return a + b")
    expect(view).to_contain_text("Same tokens as PyTorch: 4 of 4 agree")
    expect(view.get_by_label("On the phone").locator(".badge-virtual")).to_be_visible()
    expect(view.get_by_label("Final profile")).to_contain_text("1.74 ms")
    expect(view.locator(".family")).to_have_count(3)
    expect(view.locator(".family").nth(1)).to_be_hidden()
    trained.get_by_role("button").click()
    expect(view.locator(".family").nth(1).locator("tr").nth(1)).to_have_text(re.compile(r"code\s*\S\s*1\.820"))
    page.screenshot(path=pictures / "page-run.png", full_page=True)


def curve(page: Page, title: str) -> Locator:
    return page.get_by_label("Training").get_by_role("img", name=re.compile(f"^{title}"))


def test_curves_of_a_stage_grow_as_it_trains(page: Page, story: Story, watch: Watch, pictures: Path) -> None:
    page.goto(f"{story.base}/#view=runs&stage=1")
    training = page.get_by_label("Training")
    expect(training.locator("figure")).to_have_count(7)
    expect(curve(page, "Loss")).to_have_attribute("data-points", "80")
    expect(curve(page, "Bits per byte")).to_have_attribute(
        "aria-label", re.compile(r"held-out text, over 320 k tokens: all: from [\d.]+ to 1\.\d+.*; code: .*; prose: ")
    )
    expect(training.locator("figure").nth(1).locator(".curve-keys")).to_contain_text("prose")
    expect(training.locator("figure").nth(2)).to_contain_text("Gradient norm")
    expect(training.locator("figure").nth(6)).to_contain_text("1.31 GB")
    box = curve(page, "Loss").bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.screenshot(path=pictures / "page-curves.png", full_page=True)
    story.tell(1, 324_000)
    expect(curve(page, "Loss")).to_have_attribute("data-points", "81")
    expect(training).to_contain_text("324 k tokens of pretrain")
    training.get_by_role("button", name="qat").click()
    expect(page).to_have_url(re.compile("stage=2"))
    expect(curve(page, "Loss")).to_have_attribute("data-points", "1")


def test_narrow_and_dark_without_sideways_scrolling(page: Page, story: Story, watch: Watch, pictures: Path) -> None:
    page.set_viewport_size({"width": 390, "height": 844})
    page.emulate_media(color_scheme="dark")
    for view in ("searches", "fleet", "runs"):
        page.goto(f"{story.base}/#view={view}&stage=1")
        expect(page.locator("main h1").first).to_be_visible()
        expect(page.locator(".connection")).to_have_text("live")
        if view == "searches":
            expect(page.locator("tr[data-number]")).to_have_count(14)
        if view == "runs":
            expect(curve(page, "Loss")).to_be_visible()
        assert page.evaluate("document.documentElement.scrollWidth") <= 390, view
        page.screenshot(path=pictures / f"page-narrow-{view}.png", full_page=True)


def test_where_nothing_is_yet_the_page_says_what_to_do(page: Page, story: Story, watch: Watch) -> None:
    for path in ("/v1/searches", "/v1/phones", "/v1/runs"):
        page.route(story.base + path, lambda route: route.fulfill(json=[]))
    page.goto(story.base)
    expect(page.locator(".empty .command").nth(1)).to_have_text("make demo")
    expect(page.locator(".empty .command").first).to_contain_text(f"curl -X POST {story.base}/v1/searches")
    page.get_by_role("link", name="Fleet").first.click()
    expect(page.locator(".empty")).to_contain_text(f"fulcrum agent --server {story.base} --phone")
    expect(page.locator(".empty")).to_contain_text("fulcrum phone virtual")
    page.get_by_role("link", name="Runs").click()
    expect(page.locator(".empty")).to_contain_text("/v1/runs")


def test_lost_connection_is_said_and_mends_itself(page: Page, story: Story, server: Server, watch: Watch) -> None:
    open_search(page, story)
    server.stop()
    expect(page.locator(".connection")).to_have_text("connection lost")
    expect(page.get_by_role("alert")).to_contain_text("goes on by itself")
    server.start()
    expect(page.locator(".connection")).to_have_text(re.compile("connection restored|live"))
    expect(page.get_by_role("alert")).to_have_count(0)
    story.call("POST", "/v1/phones", json={"serial": "AFTERWARDS"})
    expect(page.get_by_label("Fleet in short")).to_contain_text("AFTERWARDS")
    watch.forgive("ERR_CONNECTION_REFUSED")
    watch.forgive("ERR_INCOMPLETE_CHUNKED_ENCODING")


def test_a_phone_is_flagged_until_it_has_passed_its_self_check(page: Page, story: Story, watch: Watch) -> None:
    page.goto(story.base + f"/#search={story.search}&phone={REAL}")
    flag = page.locator("article.search .badge-unchecked")
    expect(flag.first).to_have_text("self-check not passed")
    page.goto(story.base + "/#view=fleet")
    card = page.locator(f"[data-serial='{REAL}']")
    expect(card).to_contain_text(f"fulcrum phone test {REAL}")
    expect(page.get_by_role("note")).to_contain_text("No physical phone has passed")
    checked(story, REAL, fails=CheckName.GOLDEN)
    page.reload()
    expect(card).to_contain_text("not passed, at golden: golden & <b>more</b>")
    expect(page.get_by_role("note")).to_have_count(1)
    checked(story, REAL)
    page.reload()
    expect(card).to_contain_text("passed")
    expect(card).to_contain_text("android-native (ExecuTorch 1.4.1)")
    expect(page.get_by_role("note")).to_have_count(0)
    page.goto(story.base + f"/#search={story.search}&phone={REAL}")
    expect(page.get_by_label("Figures on")).to_have_value(REAL)
    expect(flag).to_have_count(0)
    page.get_by_label("Figures on").select_option(VIRTUAL)
    expect(flag.first).to_be_visible()
