"""Commands that only make figures: ablation, presets, benchmarks of the parts."""
