// SPDX-License-Identifier: Apache-2.0
/// @file
/// Every law of the library. A new one is one line here.
#pragma once

#include <array>

#include <polyak/polyak.hpp>

namespace laws {

/// Calls `use(name, law)` for every law computing in T.
template <class T, class Use>
void for_each_average(Use use) {
  const auto c = [](double value) { return static_cast<T>(value); };
  using namespace polyak;
  use("AverageLaw", AverageLaw<T>{c(0.3)});
  use("CopyLaw", CopyLaw<T>{});
  use("AverageOrCopyLaw averages", AverageOrCopyLaw<T>{c(0.3), c(0.7)});
  use("AverageOrCopyLaw copies", AverageOrCopyLaw<T>{c(1), c(0)});
  use("ReadLaw", ReadLaw<T>{});
  use("EmaBankLaw", EmaBankLaw<T, 2>{{c(0.3), c(0.01)}});
  use("AnyEmaBankLaw", AnyEmaBankLaw<T, 3>{{c(0.3), c(1), c(0)}, {c(0.7), c(0), c(1)}});
  use("FoldLaw", FoldLaw<T, 2>{{c(1), c(0.5)}, {c(0), c(0.5)}});
  use("RunningMeanLaw", RunningMeanLaw<T>{c(0.25)});
  use("ExchangeLaw", ExchangeLaw<T>{});
  use("SoftUpdateLaw", SoftUpdateLaw<T>{c(0.3)});
  use("SwitchLaw", SwitchLaw<T>{c(0.3), c(0)});
  use("SwitchLaw blends", SwitchLaw<T>{c(0.3), c(0.7)});
  use("SwitchLaw rests", SwitchLaw<T>{c(0), c(0)});
  use("SwitchLaw rests, blends", SwitchLaw<T>{c(0), c(0.7)});
}

template <class T, class Use>
void for_each_optimizer(Use use) {
  const auto c = [](double value) { return static_cast<T>(value); };
  using namespace polyak;
  const auto step = c(0.01), shrink = c(0.99), coupled = c(0.03);
  use("PlainSgdLaw", PlainSgdLaw<T>{step, shrink, coupled});
  use("SgdLaw", SgdLaw<T, false>{c(0.9), c(0.7), c(0.9), step, shrink, coupled});
  use("SgdLaw Nesterov", SgdLaw<T, true>{c(0.9), c(1), c(0.9), step, shrink, coupled});

  const AdamWLaw<T> adamw{c(0.9), c(0.1), c(0.99), c(0.01), c(1.1), c(1e-8), step, shrink};
  AdamWLaw<T> no_epsilon = adamw;
  no_epsilon.epsilon = c(0);
  use("AdamWLaw", adamw);
  use("AdamVariantLaw", AdamVariantLaw<T, true, false>{no_epsilon, coupled});
  use("AdamVariantLaw amsgrad", AdamVariantLaw<T, true, true>{no_epsilon, coupled});
  use("AdamVariantLaw beta1 = 0", AdamVariantLaw<T, false, false>{no_epsilon, coupled});
  use("AdamVariantLaw beta1 = 0 amsgrad", AdamVariantLaw<T, false, true>{adamw, coupled});

  const auto ademamix = [&]<bool Fast, bool Guarded>(AdEMAMixLaw<T, Fast, Guarded>) {
    return AdEMAMixLaw<T, Fast, Guarded>{c(0.9),    c(0.1), c(0.99), c(0.01), c(0.9999),
                                         c(0.0001), c(1.3), c(5),    c(1.1),  c(Guarded ? 0 : 1e-8),
                                         step,      shrink};
  };
  use("LionLaw", LionLaw<T>{c(0.9), c(0.1), c(0.99), c(0.01), step, shrink});
  use("AdEMAMixLaw", ademamix(AdEMAMixLaw<T, true, false>{}));
  use("AdEMAMixLaw beta1 = 0", ademamix(AdEMAMixLaw<T, false, false>{}));
  use("AdEMAMixLaw guarded", ademamix(AdEMAMixLaw<T, true, true>{}));
  use("AdEMAMixLaw beta1 = 0 guarded", ademamix(AdEMAMixLaw<T, false, true>{}));
}

template <class T, class Use>
void for_each_schedule_free(Use use) {
  const auto c = [](double value) { return static_cast<T>(value); };
  using namespace polyak;
  const ScheduleFreeMove<T> move{c(0.2), c(-0.0072), c(0.01)};
  use("ScheduleFreeSgdLaw", ScheduleFreeSgdLaw<T>{move, c(0.03)});
  use("ScheduleFreeReadLaw", ScheduleFreeReadLaw<T>{c(1 - 1 / 0.9)});
  const auto adamw = [&]<bool Inner, bool AtZ>(ScheduleFreeAdamWLaw<T, Inner, AtZ> law) {
    law.move = move;
    law.decay = c(0.03);
    law.beta2 = c(0.99), law.one_minus_beta2 = c(0.01);
    law.root_scale = c(1.1), law.epsilon = c(1e-8);
    law.momentum = c(0.6), law.one_minus_momentum = c(0.4), law.momentum_scale = c(1.3);
    return law;
  };
  use("ScheduleFreeAdamWLaw", adamw(ScheduleFreeAdamWLaw<T, false, false>{}));
  use("ScheduleFreeAdamWLaw decay at z", adamw(ScheduleFreeAdamWLaw<T, false, true>{}));
  use("ScheduleFreeAdamWLaw momentum", adamw(ScheduleFreeAdamWLaw<T, true, false>{}));
  use("ScheduleFreeAdamWLaw momentum decay at z", adamw(ScheduleFreeAdamWLaw<T, true, true>{}));
}

}  // namespace laws
