"""The commands `gmm-train`, `gmm-evaluate`, `gmm-predict`, `gmm-sample` and `gmm-show`."""
