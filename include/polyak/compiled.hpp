// SPDX-License-Identifier: Apache-2.0
/// @file
/// The loops in the compiled library polyak::compiled: the loops of Sgd, AdamW and all methods that
/// are an Average, alone and fused, for parameters of float, Eigen::half and Eigen::bfloat16 with
/// state of float. <polyak/polyak.hpp> includes this file; include it after the headers of single
/// methods.
///
/// If POLYAK_COMPILED is defined, programs link these loops instead of compiling them. Programs
/// that are compiled for one machine (POLYAK_NO_DISPATCH) compile their own.
#pragma once

#include <polyak/average/ema.hpp>
#include <polyak/average/engine/average.hpp>
#include <polyak/average/engine/averaged_weights.hpp>
#include <polyak/average/power_ema.hpp>
#include <polyak/core/bound_law.hpp>
#include <polyak/core/compiled.hpp>
#include <polyak/core/members.hpp>
#include <polyak/core/option_text.hpp>
#include <polyak/core/state.hpp>
#include <polyak/core/step.hpp>
#include <polyak/core/storage.hpp>
#include <polyak/core/sweep.hpp>
#include <polyak/core/tensors/gradients.hpp>
#include <polyak/core/tensors/parameters.hpp>
#include <polyak/optim/adamw.hpp>
#include <polyak/optim/sgd.hpp>

namespace polyak {
inline namespace POLYAK_V0 {
namespace detail {

/// The usual laws, bound as by their methods.
using BoundAdamW = BoundLaw<AdamWLaw<float>, float>;
using BoundSgd = BoundLaw<SgdLaw<float, false>, float>;
using BoundAverage = BoundLaw<AverageLaw<float>, float>;

}  // namespace detail
}  // namespace POLYAK_V0
}  // namespace polyak

/// The loop of one law over lists of P, and the loop of several laws that share a sweep. EXTERN is
/// `extern` in a declaration and empty in a definition.
#define POLYAK_LOOP(EXTERN, USUAL, P, ...)                                      \
  EXTERN template void                                                          \
  polyak::detail::sweep_one<USUAL, P, ::polyak::detail::BoundLaw<__VA_ARGS__>>( \
      int, const void*, const ::polyak::detail::SweepRange<P>&);
#define POLYAK_SHARED_LOOP(EXTERN, P, ...)                             \
  EXTERN template void polyak::detail::sweep_together<P, __VA_ARGS__>( \
      int, const void*, const ::polyak::detail::SweepRange<P>&);
/// A law that averages of float store in three ways, float64 among them.
#define POLYAK_STORED_LOOPS(EXTERN, P, LAW)                                           \
  POLYAK_LOOP(EXTERN, false, P, ::polyak::LAW<float>, float)                          \
  POLYAK_LOOP(EXTERN, false, P, ::polyak::LAW<float>, float, ::polyak::detail::Kahan) \
  POLYAK_LOOP(EXTERN, false, P, ::polyak::LAW<double>, double)
#define POLYAK_LOOPS(EXTERN, P)                                                                 \
  POLYAK_LOOP(EXTERN, true, P, ::polyak::AdamWLaw<float>, float)                                \
  POLYAK_LOOP(EXTERN, false, P, ::polyak::AdamVariantLaw<float, true, false>, float)            \
  POLYAK_LOOP(EXTERN, false, P, ::polyak::AdamVariantLaw<float, true, true>, float)             \
  POLYAK_LOOP(EXTERN, false, P, ::polyak::AdamVariantLaw<float, false, false>, float)           \
  POLYAK_LOOP(EXTERN, false, P, ::polyak::AdamVariantLaw<float, false, true>, float)            \
  POLYAK_LOOP(EXTERN, true, P, ::polyak::SgdLaw<float, false>, float)                           \
  POLYAK_LOOP(EXTERN, false, P, ::polyak::SgdLaw<float, true>, float)                           \
  POLYAK_LOOP(EXTERN, false, P, ::polyak::PlainSgdLaw<float>, float)                            \
  POLYAK_LOOP(EXTERN, true, P, ::polyak::AverageLaw<float>, float)                              \
  POLYAK_STORED_LOOPS(EXTERN, P, AverageOrCopyLaw)                                              \
  POLYAK_STORED_LOOPS(EXTERN, P, CopyLaw)                                                       \
  POLYAK_STORED_LOOPS(EXTERN, P, ReadLaw)                                                       \
  POLYAK_SHARED_LOOP(EXTERN, P, ::polyak::detail::BoundAdamW, ::polyak::detail::BoundAverage)   \
  POLYAK_SHARED_LOOP(EXTERN, P, ::polyak::detail::BoundAdamW, ::polyak::detail::BoundAverage,   \
                     ::polyak::detail::BoundAverage)                                            \
  POLYAK_SHARED_LOOP(EXTERN, P, ::polyak::detail::BoundSgd, ::polyak::detail::BoundAverage)     \
  POLYAK_SHARED_LOOP(EXTERN, P, ::polyak::detail::BoundSgd, ::polyak::detail::BoundAverage,     \
                     ::polyak::detail::BoundAverage)                                            \
  POLYAK_SHARED_LOOP(EXTERN, P, ::polyak::detail::BoundAverage, ::polyak::detail::BoundAverage) \
  EXTERN template bool polyak::detail::all_finite<P>(const P*, std::size_t,                     \
                                                     ::polyak::detail::carrier_t<P>);

/// The list of a method's state, of its base, for saving and for loading, and OPTIONS as text.
#define POLYAK_STATE(EXTERN, METHOD, P, OPTIONS, ...)                                             \
  EXTERN template void __VA_ARGS__::list_state(const METHOD<P, float>&, ::polyak::StateVisitor&); \
  EXTERN template void __VA_ARGS__::list_state(METHOD<P, float>&, ::polyak::StateEditor&);        \
  EXTERN template ::polyak::detail::OptionTexts polyak::detail::option_texts(const OPTIONS&);
/// The classes of usual methods.
#define POLYAK_AVERAGE(EXTERN, P, METHOD, WEIGHTING)                                          \
  EXTERN template class polyak::AveragedWeights<::polyak::METHOD<P, float>, P, float>;        \
  EXTERN template class polyak::AverageOf<::polyak::METHOD<P, float>, P, ::polyak::WEIGHTING, \
                                          float>;                                             \
  EXTERN template class polyak::METHOD<P, float>;                                             \
  EXTERN template struct polyak::detail::TableOf<P, ::polyak::METHOD<P, float>>;              \
  EXTERN template void polyak::validate(const ::polyak::METHOD##Options&);                    \
  POLYAK_STATE(EXTERN, ::polyak::METHOD, P, ::polyak::WEIGHTING,                              \
               polyak::AverageOf<::polyak::METHOD<P, float>, P, ::polyak::WEIGHTING, float>)
#define POLYAK_OPTIMIZER(EXTERN, P, METHOD, RULE)                                                  \
  EXTERN template class polyak::Elementwise<::polyak::METHOD<P, float>, ::polyak::RULE, P, float>; \
  EXTERN template class polyak::METHOD<P, float>;                                                  \
  EXTERN template struct polyak::detail::TableOf<P, ::polyak::METHOD<P, float>>;                   \
  POLYAK_STATE(EXTERN, ::polyak::METHOD, P, ::polyak::METHOD##Options,                             \
               polyak::Elementwise<::polyak::METHOD<P, float>, ::polyak::RULE, P, float>)
#define POLYAK_CLASSES(EXTERN, P)                                                 \
  POLYAK_OPTIMIZER(EXTERN, P, AdamW, AdamFamilyRule<true>)                        \
  POLYAK_OPTIMIZER(EXTERN, P, Sgd, SgdRule)                                       \
  POLYAK_AVERAGE(EXTERN, P, Ema, ExponentialWeighting)                            \
  POLYAK_AVERAGE(EXTERN, P, PowerEma, PowerClock)                                 \
  EXTERN template class polyak::AverageMemory<P, float>;                          \
  EXTERN template class polyak::Parameters<P>;                                    \
  EXTERN template class polyak::Gradients<P>;                                     \
  EXTERN template class polyak::detail::StepDriver<P>;                            \
  EXTERN template void polyak::detail::run_laws<P>(                               \
      const polyak::ExecutorRef&, const polyak::Parameters<P>&,                   \
      const polyak::element_t<P>* const*, const polyak::detail::GradientReading&, \
      const polyak::detail::StepParts<P>&, std::size_t, std::uint64_t);           \
  EXTERN template struct polyak::detail::Sweep<P>;

#if defined(POLYAK_COMPILED) && !defined(POLYAK_NO_DISPATCH)
POLYAK_LOOPS(extern, float)
POLYAK_LOOPS(extern, Eigen::half)
POLYAK_LOOPS(extern, Eigen::bfloat16)
POLYAK_CLASSES(extern, float)
#endif
