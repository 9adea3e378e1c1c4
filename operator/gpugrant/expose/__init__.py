"""What others see: metrics and the figures behind them."""
