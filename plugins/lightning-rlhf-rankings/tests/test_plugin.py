import subprocess
import sys

from lightning_rlhf.plugin_system.manager import plugin_manager


def test_the_package_offers_its_converters():
    components = plugin_manager().components("ranking_converter")
    offered = {name for name, offer in components.items() if offer.distribution == "lightning-rlhf-rankings"}
    assert offered == {"bradley_terry_ml", "elo", "openskill", "plackett_luce_ml"}


def test_listing_the_converters_loads_no_array_library():
    code = "import sys, lightning_rlhf_rankings.plugin; print({'numpy', 'scipy', 'torch'} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
