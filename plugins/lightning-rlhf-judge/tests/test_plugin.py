import subprocess
import sys

from lightning_rlhf.plugin_system.manager import plugin_manager


def test_the_package_offers_its_judges():
    components = plugin_manager().components("reward_function")
    offered = {name for name, offer in components.items() if offer.distribution == "lightning-rlhf-judge"}
    assert offered == {"judge_compare", "judge_score"}


def test_listing_the_judges_loads_no_http_library():
    code = "import sys, lightning_rlhf_judge.plugin; print({'httpx2', 'tenacity', 'torch'} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
