"""What the page shows of the levers of a run, and of a curriculum."""

import re
from pathlib import Path

from page_bench import Watch
from page_levers import LEVELS, OFTEN, SELDOM, practise, pull_levers
from page_story import Story
from playwright.sync_api import Locator, Page, expect


def lever(page: Page, title: str) -> Locator:
    return page.get_by_label("Stages").get_by_role("row", name=title, exact=False)


def test_every_lever_shows_its_headline_and_whether_it_helped(
    page: Page, story: Story, watch: Watch, pictures: Path
) -> None:
    page.goto(f"{story.base}/#view=runs&run={pull_levers(story)}")
    stages = page.get_by_label("Stages")
    expect(stages.locator("tbody tr:visible")).to_have_count(8)
    rows = (
        ("Longer context", r"3 Longer context held-out text at the new length, bits per byte 3.810 2.440 better"),
        ("Synthetic data", r"4 Synthetic data answers that passed every filter \u2013 55.2 % \u2013 12 s"),
        ("Preferences", r"6 Preferences held-out prompts won 50.0 % 43.8 % worse 2.030 ?\u2192 ?2.030 no change"),
        ("Quantisation", r"8 Quantisation held-out text, bits per byte \u2013 \u2013 \u2013 \u2013 queued"),
    )
    for title, words in rows:
        expect(lever(page, title)).to_have_text(re.compile(words.replace(" ", r"\s*")))
    learnt = lever(page, "Reinforcement learning")
    expect(learnt.nth(1)).to_contain_text("worse")  # of text, 2.03 to 2.11, though more was solved
    expect(learnt.nth(1)).to_contain_text("better")
    expect(learnt.nth(2).locator(".change").first).to_have_text("no change")
    button, note = stages.get_by_role("button", name="Preferences"), stages.get_by_text("A tie counts half: 50 %")
    expect(note).to_be_hidden()
    button.focus()
    page.keyboard.press("Enter")
    expect(button).to_have_attribute("aria-expanded", "true")
    expect(note).to_be_visible()
    expect(stages).to_contain_text("Examined by rules, not a language model (number, repetition).")
    stages.get_by_role("button", name="Synthetic data").click()
    funnel = stages.locator(".funnel tbody tr")
    expect(funnel.first).to_be_visible()
    expect(stages.locator(".funnel caption")).to_have_text("Of 4000 answers asked for")
    expect(funnel.nth(1)).to_have_text(re.compile(r"near duplicates .* & <b>answer</b>\s*20.0 %\s*56.0 %"))
    page.screenshot(path=pictures / "page-levers.png", full_page=True)
    page.get_by_role("button", name="synthesise").click()
    expect(page.get_by_label("Training")).to_contain_text("1000 seeds of synthesise")


def test_a_curriculum_is_followed_level_by_level(page: Page, story: Story, watch: Watch, pictures: Path) -> None:
    run = pull_levers(story)
    page.goto(f"{story.base}/#view=runs&run={run}")
    panel = page.get_by_label("Curriculum")
    rows = panel.locator("tbody tr")
    expect(rows.locator("th")).to_have_text([*LEVELS[:4], re.compile("steps-4")])
    expect(panel).to_contain_text("5 of 5 levels reached")
    expect(rows.nth(2)).to_contain_text(re.compile(r"from 295 k tokens\s*100.0 %\s*14.6 %"))
    expect(rows.nth(2).get_by_role("img")).to_have_attribute("aria-label", re.compile("^sum-2: success from .* share"))
    moment = panel.get_by_role("slider", name="Figures as of")
    moment.focus()
    page.keyboard.press("Home")
    expect(panel).to_contain_text("1 of 5 levels reached")
    expect(moment).to_have_attribute("aria-valuetext", "6144 of 614 k tokens")
    expect(rows.nth(1)).to_contain_text("the next")
    expect(rows.nth(2)).to_contain_text(re.compile(r"not yet\s*\u2013\s*0.0 %"))
    page.keyboard.press("End")
    practise(story, 101)
    expect(moment).to_have_attribute("aria-valuetext", "the latest, 621 k tokens")
    assert not page.get_by_label("Training").get_by_role("img", name=re.compile("^(level|share)")).count()
    page.screenshot(path=pictures / "page-curriculum.png", full_page=True)
    for stage, count in ((OFTEN, 30), (SELDOM, 2)):
        page.goto(f"{story.base}/#view=runs&run={run}&stage={stage}")
        expect(rows).to_have_count(count)
        expect(rows.first).to_contain_text("60.0 %")
        page.set_viewport_size({"width": 390, "height": 844})
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        page.screenshot(path=pictures / f"page-curriculum-{count}-narrow.png", full_page=True)
        page.set_viewport_size({"width": 1280, "height": 1180})
    expect(rows.first).to_contain_text("60.0 %")
