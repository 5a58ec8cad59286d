"""What tests share: references, processes, cases."""
